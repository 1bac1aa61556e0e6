//! The terminal of this process, made raw while it shows the terminal of a job.

use std::io::{IsTerminal, stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};

/// Size of a window when standard input has none.
const ROWS: u16 = 25;
const COLUMNS: u16 = 80;

/// A terminal in raw mode; it goes back when this is dropped.
pub(crate) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Makes standard input raw, if it is a terminal.
    pub(crate) fn enter() -> Self {
        let before = if stdin().is_terminal() { tcgetattr(stdin()).ok() } else { None };
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            let _ = tcsetattr(stdin(), OptionalActions::Drain, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Drain, before);
        }
    }
}

/// The size of the window, as messages carry it.
pub(crate) fn window() -> Value {
    let size = tcgetwinsize(stdin()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let (rows, cols) = size.map_or((ROWS, COLUMNS), |size| (size.ws_row, size.ws_col));
    json!({"rows": rows, "cols": cols})
}

/// Rows and columns of the terminal.
pub(crate) fn size() -> (usize, usize) {
    let size = tcgetwinsize(stdin()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
    let (rows, columns) = size.map_or((ROWS, COLUMNS), |size| (size.ws_row, size.ws_col));
    (rows.into(), columns.into())
}

/// Whether this process may read its terminal now; reading in the background would stop it.
pub(crate) fn in_foreground() -> bool {
    match rustix::termios::tcgetpgrp(stdin()) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(_) => true,
    }
}

/// The key that begins a command to this program, and the one that means detach.
const PREFIX: u8 = 0x02;
const DETACH: u8 = b'd';

/// Finds `ctrl-B d` in what is typed; `ctrl-B ctrl-B` types one.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    after_prefix: bool,
}

impl Keys {
    /// What goes to the job, and whether to detach.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut text = Vec::with_capacity(typed.len());
        for byte in typed {
            if std::mem::take(&mut self.after_prefix) {
                match *byte {
                    DETACH => return (text, true),
                    PREFIX => text.push(PREFIX),
                    other => text.extend([PREFIX, other]),
                }
            } else if *byte == PREFIX {
                self.after_prefix = true;
            } else {
                text.push(*byte);
            }
        }
        (text, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_keys_together_detach() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"ab\x02"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"x\x02\x02"), (b"\x02x\x02".to_vec(), false));
        assert_eq!(keys.filter(b"q\x02dz"), (b"q".to_vec(), true));
    }
}
