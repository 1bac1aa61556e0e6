//! Letters from one shell to another of the same job: each arrives once and in order, whatever
//! happens to the brokers between them.
//!
//! A letter has a number and is sent until it is acknowledged; the receiver acknowledges what it
//! has taken before and refuses what comes too early. Only a window of them is on its way; the
//! rest waits, in memory or on disk.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flux_proto::Errno;
use serde_json::{Map, Value};

use crate::spool::{Bounds, Record, Spool};

/// Most letters on their way.
const WINDOW: usize = 256;
/// Most bytes on their way, but for a single letter.
const WINDOW_BYTES: usize = 2 << 20;
/// Until what failed is sent again.
const RESEND: Duration = Duration::from_millis(500);
/// Letters without an acknowledgement for so long are sent again.
const SILENCE: Duration = Duration::from_secs(30);
/// So often, half a second apart, the other side's broker has known no such shell: it has ended. One
/// whose broker was restarted is known again a second later.
const GONE: u32 = 20;

/// What a letter is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// Output or a message, for the leader to record.
    Write,
    /// A task has ended.
    Doom,
    /// All tasks of this shell have ended.
    TasksComplete,
    /// Input for tasks.
    Input,
}

impl Letter {
    /// Name of the method.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Letter::Write => "write",
            Letter::Doom => "doom",
            Letter::TasksComplete => "tasks-complete",
            Letter::Input => "input",
        }
    }

    fn of(tag: u8) -> Self {
        match tag {
            0 => Letter::Write,
            1 => Letter::Doom,
            2 => Letter::TasksComplete,
            _ => Letter::Input,
        }
    }
}

/// A letter to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its number, for [`Outbox::acknowledged`].
    pub number: u64,
    /// What it is about.
    pub letter: Letter,
    /// JSON.
    pub body: String,
}

/// The letters to one shell.
#[derive(Debug)]
pub struct Outbox {
    from: u32,
    /// Number of the last letter that was written.
    last: u64,
    /// Number of the last letter that was sent.
    begun: u64,
    window: VecDeque<Mail>,
    window_bytes: usize,
    waiting: Spool,
    resend_at: Option<Instant>,
    /// Answers since the last acknowledgement that there is no such shell, and when the last was
    /// counted.
    unknown: u32,
    unknown_at: Option<Instant>,
}

impl Outbox {
    /// An empty one of shell `from`; what does not fit into memory goes to a file in `dir`.
    #[must_use]
    pub fn new(from: u32, dir: PathBuf) -> Self {
        Self {
            from,
            last: 0,
            begun: 0,
            window: VecDeque::new(),
            window_bytes: 0,
            waiting: Spool::new(dir, Bounds::default()),
            resend_at: None,
            unknown: 0,
            unknown_at: None,
        }
    }

    /// Adds a letter.
    pub fn push(&mut self, letter: Letter, mut body: Map<String, Value>) {
        self.last += 1;
        body.insert("seq".to_string(), self.last.into());
        body.insert("from".to_string(), self.from.into());
        let text = Value::Object(body).to_string();
        self.waiting.push(Record { tag: letter as u8, text });
    }

    /// The next letter whose turn it is, for the first time.
    pub fn next(&mut self, now: Instant) -> Option<Mail> {
        if self.window.len() >= WINDOW {
            return None;
        }
        let room = match self.window.is_empty() {
            true => usize::MAX,
            false => WINDOW_BYTES.saturating_sub(self.window_bytes),
        };
        let Record { tag, text } = self.waiting.pop(room)?;
        self.begun += 1;
        let mail = Mail { number: self.begun, letter: Letter::of(tag), body: text };
        self.window_bytes += mail.body.len();
        self.window.push_back(mail.clone());
        self.resend_at.get_or_insert(now + SILENCE);
        Some(mail)
    }

    /// All letters on their way, when it is time to send them again.
    pub fn again(&mut self, now: Instant) -> Vec<Mail> {
        if self.resend_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.resend_at = (!self.window.is_empty()).then_some(now + SILENCE);
        self.window.iter().cloned().collect()
    }

    /// When [`Outbox::again`] has something.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.resend_at
    }

    /// Everything on its way is to be sent again: there is a new connection.
    pub fn restart(&mut self, now: Instant) {
        if !self.window.is_empty() {
            self.resend_at = Some(now);
        }
    }

    /// A letter has arrived.
    pub fn acknowledged(&mut self, number: u64) {
        (self.unknown, self.unknown_at) = (0, None);
        if let Some(at) = self.window.iter().position(|mail| mail.number == number)
            && let Some(mail) = self.window.remove(at)
        {
            self.window_bytes -= mail.body.len();
        }
        if self.window.is_empty() {
            self.resend_at = None;
        }
    }

    /// A letter was refused or got lost. True when the receiver is gone for good, which nothing
    /// but a long time without it can tell: its broker is there but knows no such shell.
    pub fn failed(&mut self, errno: Errno, now: Instant) -> bool {
        let at = now + RESEND;
        self.resend_at = Some(self.resend_at.map_or(at, |known| known.min(at)));
        // Many letters that fail together count once.
        let again =
            self.unknown_at.is_none_or(|at| now.saturating_duration_since(at) >= RESEND / 2);
        if errno != Errno::ENOSYS {
            // Its broker is away: when that is back it needs a moment to know its shells again. The
            // execution service tells when the leader is lost.
            (self.unknown, self.unknown_at) = (0, None);
        } else if again {
            self.unknown += 1;
            self.unknown_at = Some(now);
        }
        self.unknown > GONE
    }

    /// Whether letters may wait on disk: they are not taken at the moment.
    pub fn set_stalled(&mut self, stalled: bool) {
        self.waiting.set_spilling(stalled);
    }

    /// Whether every letter has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.window.is_empty() && self.waiting.is_empty()
    }

    /// Whether no more should be written for now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.is_full()
    }

    /// What could not be kept, to be said once.
    pub fn take_loss(&mut self) -> Option<String> {
        self.waiting.take_loss()
    }

    /// Forgets everything: the receiver is gone.
    pub fn clear(&mut self) {
        while self.waiting.pop(usize::MAX).is_some() {}
        self.window.clear();
        self.window_bytes = 0;
        self.resend_at = None;
    }
}

/// What a receiver has taken from each shell.
#[derive(Debug, Clone, Default)]
pub struct Taken(BTreeMap<u32, u64>);

/// What to do with a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is its turn.
    Take,
    /// It was taken before: acknowledge it only.
    Known,
    /// One before it is missing: refuse it.
    Early,
}

impl Taken {
    /// Judges letter `number` of shell `from`; one that is to be taken counts as taken.
    pub fn judge(&mut self, from: u32, number: u64) -> Turn {
        let taken = self.0.entry(from).or_insert(0);
        if number <= *taken {
            Turn::Known
        } else if number == *taken + 1 {
            *taken = number;
            Turn::Take
        } else {
            Turn::Early
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn body(text: &str) -> Map<String, Value> {
        json!({ "data": text }).as_object().cloned().unwrap_or_default()
    }

    fn outbox() -> Outbox {
        Outbox::new(3, std::env::temp_dir())
    }

    #[test]
    fn what_failed_is_sent_again_from_the_first() {
        let now = Instant::now();
        let mut outbox = outbox();
        for text in ["a", "b", "c"] {
            outbox.push(Letter::Write, body(text));
        }
        let sent: Vec<Mail> = std::iter::from_fn(|| outbox.next(now)).collect();
        assert_eq!(sent.iter().map(|mail| mail.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(
            serde_json::from_str::<Value>(&sent[1].body).unwrap(),
            json!({"data": "b", "seq": 2, "from": 3})
        );
        outbox.acknowledged(1);
        assert!(!outbox.failed(Errno::EHOSTUNREACH, now));
        assert!(outbox.again(now).is_empty());
        let again = outbox.again(now + RESEND);
        assert_eq!(again.iter().map(|mail| mail.number).collect::<Vec<_>>(), [2, 3]);
        outbox.acknowledged(3);
        outbox.acknowledged(2);
        assert!(outbox.is_empty() && outbox.due().is_none());
    }

    #[test]
    fn only_a_window_is_on_its_way() {
        let now = Instant::now();
        let mut outbox = outbox();
        for _ in 0..WINDOW + 10 {
            outbox.push(Letter::Write, body("x"));
        }
        assert_eq!(std::iter::from_fn(|| outbox.next(now)).count(), WINDOW);
        outbox.acknowledged(7);
        assert_eq!(outbox.next(now).map(|mail| mail.number), Some(WINDOW as u64 + 1));
    }

    #[test]
    fn a_receiver_is_gone_after_a_while_only() {
        let now = Instant::now();
        let mut outbox = outbox();
        outbox.push(Letter::Doom, body("x"));
        assert!(outbox.next(now).is_some());
        let mut time = now;
        for _ in 0..2 {
            // With a broker that is away it all begins anew.
            assert!(!outbox.failed(Errno::EHOSTUNREACH, time));
            for _ in 0..GONE {
                assert!(!outbox.failed(Errno::ENOSYS, time));
                assert!(!outbox.failed(Errno::ENOSYS, time), "counts once");
                time += RESEND;
            }
        }
        assert!(outbox.failed(Errno::ENOSYS, time));
        outbox.acknowledged(1);
        assert!(!outbox.failed(Errno::ENOSYS, time + RESEND));
    }

    proptest! {
        /// A network that loses letters and acknowledgements at will.
        #[test]
        fn each_arrives_once_and_in_order(fates in proptest::collection::vec(0u8..4, 1..400)) {
            let mut now = Instant::now();
            let (mut outbox, mut taken, mut got) = (outbox(), Taken::default(), Vec::new());
            let mut fates = fates.into_iter();
            for n in 0..20 {
                outbox.push(Letter::Write, body(&n.to_string()));
            }
            for _ in 0..1000 {
                let mut mails: Vec<Mail> = std::iter::from_fn(|| outbox.next(now)).collect();
                mails.extend(outbox.again(now));
                for mail in mails {
                    match fates.next().unwrap_or(0) {
                        1 => drop(outbox.failed(Errno::EHOSTUNREACH, now)),
                        fate => match taken.judge(3, mail.number) {
                            Turn::Early => drop(outbox.failed(Errno::EAGAIN, now)),
                            turn => {
                                if turn == Turn::Take {
                                    got.push(mail.number);
                                }
                                match fate {
                                    2 => drop(outbox.failed(Errno::ECONNRESET, now)),
                                    _ => outbox.acknowledged(mail.number),
                                }
                            }
                        },
                    }
                }
                now += RESEND;
            }
            prop_assert!(outbox.is_empty());
            prop_assert_eq!(got, (1..=20).collect::<Vec<u64>>());
        }
    }
}
