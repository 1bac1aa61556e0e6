//! What ctrl-C and ctrl-Z mean while attached.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// How long the first ctrl-C is remembered.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// First ctrl-C: say what a second one does.
    Warn,
    /// Second ctrl-C: end the job.
    Cancel,
    /// Ctrl-Z after ctrl-C: leave the job alone.
    Detach,
    /// Ctrl-Z: stop this process.
    Suspend,
    /// The window has another size.
    Resize,
}

/// The signals of the terminal, turned into wishes.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    first: Option<Instant>,
}

impl Interrupts {
    /// What a signal at some time means.
    pub(crate) fn judge(&mut self, signal: Signal, now: Instant) -> Option<Wish> {
        let recent = self.first.is_some_and(|first| now.duration_since(first) < WINDOW);
        match signal {
            Signal::SIGINT if recent => {
                self.first = None;
                Some(Wish::Cancel)
            }
            Signal::SIGINT => {
                self.first = Some(now);
                Some(Wish::Warn)
            }
            Signal::SIGTSTP if recent => Some(Wish::Detach),
            Signal::SIGTSTP => Some(Wish::Suspend),
            Signal::SIGWINCH => Some(Wish::Resize),
            _ => None,
        }
    }
}

/// Takes the terminal's signals out of their usual way for as long as it lives.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks the signals and opens a descriptor for them.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTSTP, Signal::SIGWINCH] {
            set.add(signal);
        }
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd, before })
    }

    /// The next signal, if one came.
    pub(crate) fn next(&mut self) -> Option<Signal> {
        let info = self.fd.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }

    /// The next signal within `time`.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Signal> {
        let time = rustix::event::Timespec::try_from(time).ok();
        let poll = rustix::event::PollFlags::IN;
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(self.fd.as_fd(), poll)];
        // A failure is an interruption, by another signal.
        let _ = rustix::event::poll(&mut fds, time.as_ref());
        self.next()
    }

    /// For poll(2).
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A signal that is blocked for good would be worse than one that is not handled.
        let _ = self.before.thread_set_mask();
    }
}

/// Stops this process as the shell expects of ctrl-Z; returns when it is continued.
pub(crate) fn suspend() {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(0), Signal::SIGSTOP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_ctrl_c_cancels_only_soon_after_the_first() {
        let mut interrupts = Interrupts::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(interrupts.judge(Signal::SIGINT, at(0)), Some(Wish::Warn));
        assert_eq!(interrupts.judge(Signal::SIGINT, at(3)), Some(Wish::Warn));
        assert_eq!(interrupts.judge(Signal::SIGINT, at(4)), Some(Wish::Cancel));
        assert_eq!(interrupts.judge(Signal::SIGTSTP, at(4)), Some(Wish::Suspend));
        assert_eq!(interrupts.judge(Signal::SIGINT, at(10)), Some(Wish::Warn));
        assert_eq!(interrupts.judge(Signal::SIGTSTP, at(11)), Some(Wish::Detach));
        assert_eq!(interrupts.judge(Signal::SIGTERM, at(11)), None);
    }
}
