//! States of a broker, events, and the one table of transitions.

/// A state. The numbers are those of `state-machine.monitor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum State {
    /// Builtin modules are starting.
    LoadBuiltins = 0,
    /// Waiting for the parent to accept this broker and to be up itself.
    Join = 1,
    /// Waiting for the leader's configuration.
    ConfigSync = 2,
    /// Starting modules, then rc1.
    Init = 3,
    /// Waiting for enough brokers (rank 0), or for the leader to run.
    Quorum = 4,
    /// Serving; rank 0 runs the initial program, if any.
    Run = 5,
    /// Ending work.
    Cleanup = 6,
    /// Waiting for children to leave.
    Shutdown = 7,
    /// rc3, then stopping modules.
    Finalize = 8,
    /// Taking leave of the parent.
    Goodbye = 9,
    /// Stopping builtin modules.
    UnloadBuiltins = 10,
    /// The process ends.
    Exit = 11,
}

impl State {
    /// Lower case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LoadBuiltins => "load-builtins",
            Self::Join => "join",
            Self::ConfigSync => "config-sync",
            Self::Init => "init",
            Self::Quorum => "quorum",
            Self::Run => "run",
            Self::Cleanup => "cleanup",
            Self::Shutdown => "shutdown",
            Self::Finalize => "finalize",
            Self::Goodbye => "goodbye",
            Self::UnloadBuiltins => "unload-builtins",
            Self::Exit => "exit",
        }
    }

    /// The state with a number of `state-machine.monitor`.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        [
            Self::LoadBuiltins,
            Self::Join,
            Self::ConfigSync,
            Self::Init,
            Self::Quorum,
            Self::Run,
            Self::Cleanup,
            Self::Shutdown,
            Self::Finalize,
            Self::Goodbye,
            Self::UnloadBuiltins,
            Self::Exit,
        ]
        .into_iter()
        .find(|state| *state as i32 == number)
    }

    /// Where an event leads from here; `None` when it means nothing in this state.
    #[must_use]
    pub fn after(self, event: &str) -> Option<Self> {
        Some(match (self, event) {
            (Self::LoadBuiltins, "builtins-success") => Self::Join,
            (Self::LoadBuiltins, "builtins-fail") => Self::UnloadBuiltins,
            (Self::Join, "parent-ready" | "parent-none") => Self::ConfigSync,
            (Self::Join, "parent-fail")
            | (Self::ConfigSync, "sync-fail")
            | (Self::Init, "rc1-fail" | "parent-fail" | "panic")
            | (Self::Quorum, "quorum-fail" | "panic")
            | (Self::Run, "panic")
            | (Self::Cleanup, "cleanup-success" | "cleanup-none" | "cleanup-fail") => {
                Self::Shutdown
            }
            (Self::ConfigSync, "sync-success" | "sync-none") => Self::Init,
            (Self::Init, "rc1-success" | "rc1-none" | "rc1-ignorefail") => Self::Quorum,
            (Self::Quorum, "quorum-full") => Self::Run,
            (Self::Run, "rc2-none") => Self::Run,
            (Self::Run, "rc2-success" | "rc2-fail" | "shutdown" | "parent-fail") => Self::Cleanup,
            (Self::Shutdown, "children-complete" | "children-none") => Self::Finalize,
            (Self::Finalize, "rc3-success" | "rc3-none" | "rc3-fail") => Self::Goodbye,
            (Self::Goodbye, "goodbye") => Self::UnloadBuiltins,
            (Self::UnloadBuiltins, "builtins-done" | "builtins-unload-fail") => Self::Exit,
            _ => return None,
        })
    }
}

/// What a follower makes of its parent's state (or of its loss) in its own state.
#[must_use]
pub fn parent_event(own: State, parent: Option<State>) -> Option<&'static str> {
    match (own, parent) {
        (State::Join, Some(State::Quorum | State::Run)) => Some("parent-ready"),
        (State::Join, Some(parent)) if parent >= State::Cleanup => Some("parent-fail"),
        (State::Join, None) => Some("parent-fail"),
        (State::ConfigSync, None) => Some("sync-fail"),
        // Modules that wait for something above would wait for ever.
        (State::Init, Some(parent)) if parent >= State::Cleanup => Some("parent-fail"),
        (State::Init, None) => Some("parent-fail"),
        (State::Quorum, Some(State::Run)) => Some("quorum-full"),
        (State::Quorum, Some(parent)) if parent >= State::Cleanup => Some("quorum-fail"),
        (State::Quorum, None) => Some("quorum-fail"),
        (State::Run, Some(State::Shutdown)) => Some("shutdown"),
        (State::Run, Some(parent)) if parent > State::Shutdown => Some("parent-fail"),
        (State::Run, None) => Some("parent-fail"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinary_life_visits_every_state_once() {
        let events = [
            "builtins-success",
            "parent-none",
            "sync-none",
            "rc1-success",
            "quorum-full",
            "rc2-success",
            "cleanup-success",
            "children-none",
            "rc3-success",
            "goodbye",
            "builtins-done",
        ];
        let mut state = State::LoadBuiltins;
        for (number, event) in events.iter().enumerate() {
            assert_eq!(state as usize, number);
            state = state.after(event).unwrap();
        }
        assert_eq!(state, State::Exit);
    }

    #[test]
    fn a_lost_parent_ends_a_running_follower() {
        assert_eq!(parent_event(State::Run, None), Some("parent-fail"));
        assert_eq!(parent_event(State::Init, None), Some("parent-fail"));
        assert_eq!(State::Init.after("parent-fail"), Some(State::Shutdown));
        assert_eq!(parent_event(State::Run, Some(State::Run)), None);
        assert_eq!(parent_event(State::Join, Some(State::Init)), None);
    }
}
