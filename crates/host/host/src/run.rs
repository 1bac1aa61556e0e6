//! From start to exit.

use std::rc::Rc;

use flux_svc::engine::{Engine, Input};
use tokio::task::LocalSet;

use crate::driver::Driver;
use crate::hub::Hub;
use crate::links::{self, Links};
use crate::local::{LocalSocket, accept_clients};
use crate::options::{HostError, HostOptions};
use crate::signal;

/// Runs a broker on this thread until its engine says exit; the exit code.
///
/// The local socket exists when the engine starts; clients that connect before it says listen
/// wait for their authentication byte.
///
/// # Errors
/// When the loop or the local socket cannot be set up; nothing was started then.
///
/// # Panics
/// When the engine panics: a broker with a bug ends whole.
pub fn run(
    engine: Box<dyn Engine>,
    options: HostOptions,
    drivers: Vec<Box<dyn Driver>>,
) -> Result<i32, HostError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HostError::Runtime)?;
    let code = LocalSet::new().block_on(&runtime, serve(engine, options, drivers));
    // Threads of drivers that still run must not hold up the end.
    runtime.shutdown_background();
    code
}

/// What [`run`] does, for a caller that has a current-thread runtime and a
/// [`LocalSet`] already.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub async fn serve(
    engine: Box<dyn Engine>,
    mut options: HostOptions,
    drivers: Vec<Box<dyn Driver>>,
) -> Result<i32, HostError> {
    let listeners = links::bind(&mut options).await?;
    let socket = Rc::new(LocalSocket::bind(&options.local_socket)?);
    let flush_time = options.flush_time;
    let mut later = options.bind_later.take();
    let (keys, link) = (options.keys.clone(), options.link);
    let signals = options.signals;
    let (links, events) = Links::new(&mut options);
    let hub = Hub::new(engine, options, drivers, links)?;
    let carrier = tokio::task::spawn_local(links::carry(Rc::clone(&hub), events));
    if signals {
        signal::listen(&hub)?;
    }
    let inbox = {
        let hub = Rc::clone(&hub);
        tokio::task::spawn_local(async move {
            loop {
                hub.inbox.arrived.notified().await;
                hub.feed(std::iter::empty());
            }
        })
    };
    hub.start();
    let mut listeners = Some(listeners);
    let mut adopters = Vec::new();
    let mut acceptor = None;
    let code = loop {
        assert!(!hub.has_panicked(), "the engine panicked");
        if let Some(code) = hub.exit_code() {
            break code;
        }
        if acceptor.is_none() && hub.is_listening() {
            let task = accept_clients(Rc::clone(&hub), Rc::clone(&socket));
            acceptor = Some(tokio::task::spawn_local(task));
        }
        if hub.is_adopting() {
            for listener in listeners.take().into_iter().flatten() {
                let task = links::accept_children(Rc::clone(&hub), listener);
                adopters.push(tokio::task::spawn_local(task));
            }
        } else if listeners.is_none() {
            adopters.drain(..).for_each(|adopter| adopter.abort());
        }
        if hub.has_grown()
            && let Some(endpoint) = later.take()
            && let Some(listener) = links::bind_later(&endpoint, keys.as_ref(), &link).await
        {
            match &mut listeners {
                Some(listeners) => listeners.push(listener),
                None => {
                    let task = links::accept_children(Rc::clone(&hub), listener);
                    adopters.push(tokio::task::spawn_local(task));
                }
            }
            // It may have been told to take in nobody meanwhile.
            continue;
        }
        let deadline = hub.arm().map(|at| hub.instant(at));
        tokio::select! {
            biased;
            () = hub.changed.notified() => {}
            () = hub.earlier.notified() => {}
            () = sleep_until(deadline) => hub.feed_one(Input::Tick),
        }
    };
    inbox.abort();
    adopters.drain(..).for_each(|adopter| adopter.abort());
    if let Some(acceptor) = acceptor {
        acceptor.abort();
        // It holds the socket, whose file is to be gone when this returns.
        drop(acceptor.await);
    }
    let running = hub.with_links(Links::close_all);
    let flushed = async {
        for link in running {
            // However it ended, it has.
            drop(link.await);
        }
        while hub.unflushed() > 0 {
            hub.changed.notified().await;
        }
    };
    drop(tokio::time::timeout(flush_time, flushed).await);
    carrier.abort();
    hub.close_clients();
    Ok(code)
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
