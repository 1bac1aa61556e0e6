//! The `users` driver: users and groups as this host knows them (NSS). A directory service may take
//! its time, so a thread of its own asks it, started with the first request.

use std::ffi::CString;
use std::sync::mpsc::{Sender, channel};

use flux_api::driver::{Numbers, Person, Users as Api};
use flux_api::{Api as _, RpcError};
use flux_proto::{Errno, Message, MsgType};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::driver::{Driver, DriverHandle};

/// Serves `users.*`.
#[derive(Debug, Default)]
pub struct Users {
    thread: Option<Sender<(Api, DriverHandle)>>,
}

fn failed(what: &str, errno: nix::errno::Errno) -> RpcError {
    RpcError::new(Errno(errno as i32 as u32), format!("{what}: {}", errno.desc()))
}

/// The numbers of names; names that nobody has are left out.
fn numbers(users: &[String], groups: &[String]) -> Result<Numbers, RpcError> {
    let mut found = Numbers { users: [].into(), groups: [].into() };
    for name in users {
        match User::from_name(name) {
            Ok(Some(user)) => drop(found.users.insert(name.clone(), user.uid.as_raw())),
            Ok(None) => {}
            Err(errno) => return Err(failed(&format!("user {name}"), errno)),
        }
    }
    for name in groups {
        match Group::from_name(name) {
            Ok(Some(group)) => drop(found.groups.insert(name.clone(), group.gid.as_raw())),
            Ok(None) => {}
            Err(errno) => return Err(failed(&format!("group {name}"), errno)),
        }
    }
    Ok(found)
}

fn person(userid: u32) -> Result<Person, RpcError> {
    let what = || format!("user {userid}");
    let Some(user) = User::from_uid(Uid::from_raw(userid)).map_err(|e| failed(&what(), e))? else {
        return Ok(Person { name: None, groups: Vec::new() });
    };
    let name = CString::new(user.name.as_str())
        .map_err(|_| RpcError::new(Errno::EINVAL, format!("{}: bad name", what())))?;
    let groups = getgrouplist(&name, user.gid).map_err(|e| failed(&what(), e))?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Person { name: Some(user.name), groups })
}

fn answer(call: Api, mut back: DriverHandle) {
    match call {
        Api::Numbers_(call) => {
            let found = numbers(&call.request.users, &call.request.groups);
            call.answer.respond(&mut back, found);
        }
        Api::Groups(call) => {
            let found = person(call.request.userid);
            call.answer.respond(&mut back, found);
        }
    }
}

impl Driver for Users {
    fn name(&self) -> &'static str {
        "users"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if message.kind != MsgType::Request {
            return;
        }
        let call = match Api::decode(message) {
            Err((message, error)) => return back.refuse(&message, &error),
            Ok(call) => call,
        };
        if self.thread.is_none() {
            let (sender, receiver) = channel();
            let work = move || {
                for (call, back) in receiver {
                    answer(call, back);
                }
            };
            if std::thread::Builder::new().name("users".into()).spawn(work).is_ok() {
                self.thread = Some(sender);
            }
        }
        match &self.thread {
            // The thread ends with the sender only.
            Some(thread) => drop(thread.send((call, back.clone()))),
            None => answer(call, back.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(topic: &str, body: &Value) -> Value {
        let (handle, mut take) = DriverHandle::detached("users");
        let mut users = Users::default();
        users.deliver(Message::request(topic).with_json(body), &handle);
        loop {
            if let Some(answer) = take().pop() {
                return answer.json().unwrap();
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn names_become_numbers_and_unknown_ones_are_missing() {
        let names = json!({"users": ["root", "no such user"], "groups": ["root", "no such group"]});
        let found = ask("users.numbers", &names);
        assert_eq!(found, json!({"users": {"root": 0}, "groups": {"root": 0}}));
    }

    #[test]
    fn a_user_has_all_groups_and_a_stranger_none() {
        let root = ask("users.groups", &json!({"userid": 0}));
        assert_eq!(root["name"], "root");
        assert!(root["groups"].as_array().unwrap().contains(&json!(0)));
        assert_eq!(
            ask("users.groups", &json!({"userid": 3_999_999_999_u32})),
            json!({"groups": []})
        );
    }
}
