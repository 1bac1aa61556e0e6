//! Signals of the process become inputs of the engine.

use std::rc::Rc;

use flux_svc::engine::Input;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::hub::Hub;
use crate::options::HostError;

/// The signals that an engine hears of.
const TAKEN: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGALRM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

pub(crate) fn listen(hub: &Rc<Hub>) -> Result<(), HostError> {
    for number in TAKEN.map(|signal| signal as i32) {
        let mut stream = signal(SignalKind::from_raw(number))
            .map_err(|source| HostError::Signal { number, source })?;
        let hub = Rc::clone(hub);
        drop(tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() {
                hub.feed_one(Input::Signal(number));
            }
        }));
    }
    Ok(())
}
