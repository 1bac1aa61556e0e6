//! The `console` driver: stderr, the service manager, configuration files, resource use.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use flux_api::config::with_place;
use flux_api::driver::{ConfigFiles, Console as Api, RusageRequest};
use flux_api::{Api as _, Empty, RpcError};
use flux_model::resource_set::ResourceSet;
use flux_proto::{Errno, Message, MsgType};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::{Map, Value, json};

use crate::config;
use crate::driver::{Driver, DriverHandle};
use crate::hub::write_stderr;
use crate::topo::read_r;

/// Serves `console.*`.
#[derive(Debug, Default)]
pub struct Console {
    config: Option<PathBuf>,
}

impl Console {
    /// A console whose configuration is a directory or file; without one it is empty.
    #[must_use]
    pub fn new(config: Option<PathBuf>) -> Self {
        Self { config }
    }

    fn read_config(&self) -> Result<ConfigFiles, RpcError> {
        let Some(path) = &self.config else {
            let (config, warnings, places) = Default::default();
            return Ok(ConfigFiles { config, warnings, places });
        };
        let refused = |text: String| RpcError::new(Errno::EINVAL, text);
        let found = config::read_configuration(path).map_err(|error| refused(error.to_string()))?;
        resources_fit(&found.config).map_err(|text| refused(with_place(&found.places, &text)))?;
        for warning in &found.warnings {
            write_stderr(&format!("config.warning: {warning}"));
        }
        let config::Configuration { config, warnings, places } = found;
        Ok(ConfigFiles { config, warnings, places })
    }
}

/// Looks at the R that a configuration names, before anybody takes it over.
fn resources_fit(config: &Map<String, Value>) -> Result<(), String> {
    let table = config.get("resource");
    let path = table.and_then(|table| table.get("path")).and_then(Value::as_str);
    let Some(path) = path.filter(|_| table.is_none_or(|table| table.get("config").is_none()))
    else {
        return Ok(());
    };
    let wrong = |text: String| format!("resource.path: {path}: {text}");
    let read = read_r(Path::new(path)).map_err(wrong)?;
    let r = read.r.unwrap_or_default();
    ResourceSet::check_configured(&r, config).map_err(wrong)
}

impl Driver for Console {
    fn name(&self) -> &'static str {
        "console"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if message.kind != MsgType::Request || Api::method(message.topic()).is_none() {
            if message.kind == MsgType::Request {
                back.refuse_unknown(&message);
            }
            return;
        }
        let mut out = back.clone();
        match Api::decode(message) {
            Err((message, error)) => back.refuse(&message, &error),
            Ok(Api::Write(call)) => {
                write_stderr(&call.request.0);
                call.answer.ok(&mut out, &Empty);
            }
            Ok(Api::Notify(call)) => {
                notify_manager(&call.request.0);
                // The last word of a start: from here on the broker serves.
                if call.request.0.starts_with("STATUS=Running as ") {
                    crate::resident::give_back_code();
                }
                call.answer.ok(&mut out, &Empty);
            }
            Ok(Api::ReadConfig(call)) => call.answer.respond(&mut out, self.read_config()),
            Ok(Api::Rusage(call)) => {
                let usage = rusage(&call.request).map(flux_api::body::AnyObject);
                call.answer.respond(&mut out, usage);
            }
        }
    }
}

/// Sends text to the service manager, if there is one (`NOTIFY_SOCKET`, a path or `@name`).
/// Without blocking: what it cannot take is lost, as with any status line.
pub(crate) fn notify_manager(text: &str) {
    let Some(target) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = target.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&target),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound())
        && socket.set_nonblocking(true).is_ok()
    {
        drop(socket.send_to_addr(text.as_bytes(), &address));
    }
}

/// Resource use of this process, as `M.rusage` answers it.
fn rusage(request: &RusageRequest) -> Result<Map<String, Value>, RpcError> {
    let who = match request.who.as_deref() {
        None | Some("self") => UsageWho::RUSAGE_SELF,
        Some("children") => UsageWho::RUSAGE_CHILDREN,
        Some("thread") => UsageWho::RUSAGE_THREAD,
        Some(other) => {
            return Err(RpcError::new(Errno::EINVAL, format!("{other} is unsupported")));
        }
    };
    let usage = getrusage(who).map_err(|errno| {
        RpcError::new(Errno(errno as i32 as u32), format!("getrusage: {errno}"))
    })?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let value = json!({
        "utime": seconds(usage.user_time()),
        "stime": seconds(usage.system_time()),
        "maxrss": usage.max_rss(),
        "ixrss": usage.shared_integral(),
        "idrss": usage.unshared_data_integral(),
        "isrss": usage.unshared_stack_integral(),
        "minflt": usage.minor_page_faults(),
        "majflt": usage.major_page_faults(),
        "nswap": usage.full_swaps(),
        "inblock": usage.block_reads(),
        "oublock": usage.block_writes(),
        "msgsnd": usage.ipc_sends(),
        "msgrcv": usage.ipc_receives(),
        "nsignals": usage.signals(),
        "nvcsw": usage.voluntary_context_switches(),
        "nivcsw": usage.involuntary_context_switches(),
    });
    match value {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(console: &mut Console, request: Message) -> Message {
        let (handle, mut take) = DriverHandle::detached("console");
        console.deliver(request, &handle);
        let mut answers = take();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    #[test]
    fn rusage_is_answered_and_checked() {
        let mut console = Console::default();
        let request = Message::request("console.rusage").with_json(&json!({}));
        let usage: Map<String, Value> = ask(&mut console, request).json().unwrap();
        assert!(usage["maxrss"].as_i64().unwrap() > 0);
        let request = Message::request("console.rusage").with_json(&json!({"who": "me"}));
        let answer = ask(&mut console, request);
        assert_eq!(answer.errnum(), Errno::EINVAL);
        assert_eq!(answer.error_text(), "me is unsupported");
    }

    #[test]
    fn unknown_methods_are_refused_and_config_errors_told() {
        let mut console = Console::new(Some("/nonexistent.toml".into()));
        assert_eq!(ask(&mut console, Message::request("console.x")).errnum(), Errno::ENOSYS);
        let answer = ask(&mut console, Message::request("console.read-config"));
        assert_eq!(answer.errnum(), Errno::EINVAL);
        assert!(answer.error_text().starts_with("Config file error: /nonexistent.toml: "));
        let mut empty = Console::default();
        let answer = ask(&mut empty, Message::request("console.read-config"));
        assert_eq!(answer.json::<Value>().unwrap(), json!({"config": {}}));
    }
}
