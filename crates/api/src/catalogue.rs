//! All RPCs there are, for what is made from the whole of them: the reference page, and the test
//! that calls each as somebody who may not.

use flux_proto::{Errno, Flags, Message};

use crate::{Api, Method, RpcError};

/// One service of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Names by which it is called.
    pub services: &'static [&'static str],
    /// Its RPCs.
    pub methods: &'static [Method],
    /// Decodes a request of one of them; what is wrong with it is the error.
    pub check: fn(Message) -> Result<(), RpcError>,
}

const fn entry<A: Api>() -> Entry {
    Entry { services: A::SERVICES, methods: A::METHODS, check: decodes::<A> }
}

fn decodes<A: Api>(mut message: Message) -> Result<(), RpcError> {
    // Nobody waits for an answer.
    message.flags.insert(Flags::NORESPONSE);
    A::decode(message).map(drop).map_err(|(_, error)| error)
}

/// Every service, in the order of the reference page.
pub const SERVICES: &[Entry] = &[
    entry::<crate::broker::Broker>(),
    entry::<crate::overlay::Overlay>(),
    entry::<crate::lifecycle::Attr>(),
    entry::<crate::lifecycle::Log>(),
    entry::<crate::lifecycle::Config>(),
    entry::<crate::lifecycle::Groups>(),
    entry::<crate::lifecycle::StateMachine>(),
    entry::<crate::lifecycle::Heartbeat>(),
    entry::<crate::content::Content>(),
    entry::<crate::content::Backing>(),
    entry::<crate::archive::Archive>(),
    entry::<crate::kvs::Kvs>(),
    entry::<crate::kvs::KvsWatch>(),
    entry::<crate::resource::Resource>(),
    entry::<crate::sched::Sched>(),
    entry::<crate::job::ingest::Ingest>(),
    entry::<crate::job::manager::Manager>(),
    entry::<crate::job::exec::Exec>(),
    entry::<crate::job::info::Info>(),
    entry::<crate::job::list::JobList>(),
    entry::<crate::cron::Cron>(),
    entry::<crate::cron::Calendar>(),
    entry::<crate::rexec::Rexec>(),
    entry::<crate::launch::Launch>(),
    entry::<crate::driver::Console>(),
    entry::<crate::driver::Topo>(),
    entry::<crate::driver::Users>(),
];

/// Decodes a request, as the service would that it is for; ENOSYS when there is none.
///
/// # Errors
/// What is wrong with it.
pub fn check(message: Message) -> Result<(), RpcError> {
    let topic = message.topic();
    let entry = SERVICES.iter().find(|entry| entry.methods.iter().any(|own| own.topic == topic));
    match entry {
        Some(entry) => (entry.check)(message),
        None => Err(RpcError::bare(Errno::ENOSYS)),
    }
}

/// Every RPC.
pub fn methods() -> impl Iterator<Item = &'static Method> {
    SERVICES.iter().flat_map(|entry| entry.methods)
}

/// The declaration of a topic.
#[must_use]
pub fn method(topic: &str) -> Option<&'static Method> {
    methods().find(|method| method.topic == topic)
}
