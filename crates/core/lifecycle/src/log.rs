//! `log`: a ring of lines on every rank; severe lines travel towards rank 0.

use std::collections::VecDeque;

use bytes::Bytes;
use flux_api::driver::Write;
use flux_api::lifecycle::{Append, AttrSet, Dmesg_, Log};
use flux_api::{Answer, Empty, Raw, RpcError, Text};
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Reply, Service, To};
use serde_json::{Value, json};

use crate::attributes::Attributes;

/// Where lines go, by severity number: a level takes lines of that number and below; negative
/// takes none.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Lines that the ring keeps.
    pub ring_size: usize,
    /// Into the ring.
    pub level: i32,
    /// Towards rank 0.
    pub forward_level: i32,
    /// To the stderr of the rank where the line originates.
    pub critical_level: i32,
    /// To stderr.
    pub stderr_level: i32,
    /// Each rank prints its own lines; else rank 0 prints all.
    pub stderr_local: bool,
}

impl LogSettings {
    /// From the `log-…` attributes.
    ///
    /// # Errors
    /// The sentence to show for a value that is no number.
    pub fn from_attributes(attributes: &Attributes) -> Result<Self, String> {
        let number = |name: &str| -> Result<i32, String> {
            let text = attributes.get(name).unwrap_or("0");
            text.parse().map_err(|_| format!("{name}: '{text}' is not a log level"))
        };
        let ring_size = number("log-ring-size")?;
        Ok(Self {
            ring_size: usize::try_from(ring_size)
                .map_err(|_| "log-ring-size: must not be negative".to_string())?,
            level: number("log-level")?,
            forward_level: number("log-forward-level")?,
            critical_level: number("log-critical-level")?,
            stderr_level: number("log-stderr-level")?,
            stderr_local: match attributes.get("log-stderr-mode") {
                Some("local") => true,
                Some("leader") | None => false,
                Some(other) => {
                    return Err(format!("log-stderr-mode: '{other}' is neither leader nor local"));
                }
            },
        })
    }
}

/// One line, taken apart: `<PRI>1 TIMESTAMP RANK APPNAME PROCID - - TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// Severity, 0..=7.
    pub severity: i32,
    /// Time as written.
    pub timestamp: &'a str,
    /// Rank where it originates.
    pub rank: &'a str,
    /// Who logs.
    pub app: &'a str,
    /// The text.
    pub text: &'a str,
}

const SEVERITIES: [&str; 8] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl<'a> Line<'a> {
    /// Takes a line apart; `None` when it has not that form.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix('<')?;
        let (priority, rest) = rest.split_once('>')?;
        let severity = priority.parse::<i32>().ok()?.div_euclid(8);
        let mut words = rest.splitn(8, ' ');
        let _version = words.next()?;
        let timestamp = words.next()?;
        let rank = words.next()?;
        let app = words.next()?;
        let _process = words.next()?;
        let _id = words.next()?;
        let _data = words.next()?;
        let text = words.next().unwrap_or("");
        Some(Self { severity, timestamp, rank, app, text })
    }

    fn name(&self) -> &'static str {
        usize::try_from(self.severity)
            .ok()
            .and_then(|at| SEVERITIES.get(at))
            .copied()
            .unwrap_or("debug")
    }

    /// `APP.SEV[RANK]: TEXT`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}.{}[{}]: {}", self.app, self.name(), self.rank, self.text)
    }

    /// `Nov 20 23:34:05.838227 UTC 2026 APP.SEV[RANK]: TEXT`.
    fn dated(&self) -> String {
        let date = (|| {
            let (date, time) = self.timestamp.split_once('T')?;
            let mut parts = date.split('-');
            let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
            let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
            Some(format!("{month} {day} {} UTC {year}", time.trim_end_matches('Z')))
        })();
        format!("{} {}", date.unwrap_or_else(|| self.timestamp.to_string()), self.short())
    }
}

/// The `log` service.
#[derive(Debug)]
pub struct LogService {
    settings: LogSettings,
    ring: VecDeque<String>,
    followers: Vec<Answer<Dmesg_>>,
    count: u64,
    local: u64,
    remote: u64,
}

impl LogService {
    /// An empty log.
    #[must_use]
    pub fn new(settings: LogSettings) -> Self {
        Self {
            settings,
            ring: VecDeque::new(),
            followers: Vec::new(),
            count: 0,
            local: 0,
            remote: 0,
        }
    }

    fn append(&mut self, cx: &mut Cx<'_, ()>, raw: &Bytes) {
        let text = String::from_utf8_lossy(raw);
        let text = text.trim_end_matches(['\0', '\n']);
        let Some(line) = Line::parse(text) else { return };
        self.count += 1;
        let own = line.rank.parse::<u32>() == Ok(cx.rank());
        let severity = line.severity;
        if own {
            self.local += 1;
            if severity <= self.settings.level {
                self.keep(cx, text);
            }
            if cx.rank() > 0 && severity <= self.settings.forward_level {
                cx.notify::<Append>(To::Upstream, &Raw(Bytes::copy_from_slice(text.as_bytes())));
            }
        } else {
            self.remote += 1;
            if cx.rank() == 0 {
                // What others forward is worth keeping here.
                self.keep(cx, text);
            } else {
                cx.notify::<Append>(To::Upstream, &Raw(Bytes::copy_from_slice(text.as_bytes())));
            }
        }
        let critical = own && severity <= self.settings.critical_level;
        let prints = severity <= self.settings.stderr_level
            && if self.settings.stderr_local { own } else { cx.rank() == 0 };
        if critical || prints {
            let shown = if self.settings.stderr_local {
                format!("<{severity}>{}", line.short())
            } else {
                line.dated()
            };
            let rank = cx.rank();
            cx.notify::<Write>(To::Rank(rank), &Text(shown));
        }
    }

    fn keep(&mut self, cx: &mut Cx<'_, ()>, line: &str) {
        if self.settings.ring_size == 0 {
            return;
        }
        if self.ring.len() >= self.settings.ring_size {
            self.ring.pop_front();
        }
        self.ring.push_back(line.to_string());
        for follower in &self.followers {
            follower.item(cx, &Text(line.to_string()));
        }
    }

    fn set(&mut self, change: &AttrSet) -> Result<Empty, RpcError> {
        let level = change.value.parse().map_err(|_| {
            RpcError::new(
                Errno::EINVAL,
                format!("{}: '{}' is not a log level", change.name, change.value),
            )
        })?;
        match change.name.as_str() {
            "log-stderr-level" => self.settings.stderr_level = level,
            name => return Err(RpcError::new(Errno::ENOENT, format!("{name}: unknown attribute"))),
        }
        Ok(Empty)
    }
}

impl Service for LogService {
    type Api = Log;
    type Wait = ();

    fn on_call(&mut self, cx: &mut Cx<'_, ()>, call: Log) {
        match call {
            Log::Append(call) => {
                self.append(cx, &call.request.0);
                if call.answer.matchtag() == 0 {
                    call.answer.forget();
                } else {
                    call.answer.ok(cx, &Empty);
                }
            }
            Log::Clear(call) => {
                self.ring.clear();
                call.answer.ok(cx, &Empty);
            }
            Log::Dmesg_(call) => {
                if !call.request.nobacklog {
                    for line in &self.ring {
                        call.answer.item(cx, &Text(line.clone()));
                    }
                }
                if call.request.follow {
                    self.followers.push(call.answer);
                } else {
                    call.answer.end(cx);
                }
            }
            Log::Cancel(call) => {
                let tag = call.request.matchtag;
                let mut kept = Vec::new();
                for follower in self.followers.drain(..) {
                    if follower.matchtag() == tag && follower.same_sender(call.answer.head()) {
                        follower.end(cx);
                    } else {
                        kept.push(follower);
                    }
                }
                self.followers = kept;
            }
            Log::Setattr(call) => {
                let result = self.set(&call.request);
                call.answer.respond(cx, result);
            }
        }
    }

    fn on_reply(&mut self, _cx: &mut Cx<'_, ()>, _wait: (), _reply: Reply) {}

    fn on_timer(&mut self, _cx: &mut Cx<'_, ()>, _wait: ()) {}

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, ()>, message: &Message) {
        let mut kept = Vec::new();
        for follower in self.followers.drain(..) {
            if follower.same_sender(message) {
                follower.forget();
            } else {
                kept.push(follower);
            }
        }
        self.followers = kept;
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, ()>) {
        for follower in self.followers.drain(..) {
            follower.end(cx);
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        Some(json!({
            "ring-used": self.ring.len(),
            "count": self.count,
            "local": self.local,
            "remote": self.remote,
        }))
    }
}

#[cfg(test)]
mod tests {
    use flux_svc::Rig;

    use super::*;

    const LINE: &str = "<24>1 2026-11-20T23:38:27.785629Z 0 kvs - - - lost a blob";

    fn append(rig: &mut Rig<LogService>, line: &str) {
        let mut message = Message::request("log.append").with_raw(line.as_bytes().to_vec());
        message.cred = rig.owner();
        rig.deliver(message);
    }

    fn rig() -> Rig<LogService> {
        Rig::new(LogService::new(LogSettings::from_attributes(&Attributes::new()).unwrap()))
    }

    #[test]
    fn severe_lines_reach_stderr_in_the_leaders_form() {
        let mut rig = rig();
        append(&mut rig, LINE);
        let write = rig.expect("console.write");
        assert_eq!(
            write.text().unwrap(),
            "Nov 20 23:38:27.785629 UTC 2026 kvs.err[0]: lost a blob"
        );
        rig.finish();
    }

    #[test]
    fn the_leader_keeps_what_others_forward_to_it() {
        let mut rig = rig();
        append(&mut rig, "<48>1 2026-11-20T23:38:27.785629Z 3 logger - - - hi");
        let tag = rig.stream("log.dmesg", json!({"follow": false}));
        let line = rig.responses.pop_front().unwrap();
        assert!(line.text().unwrap().ends_with(" 3 logger - - - hi"), "{:?}", line.text());
        assert!(rig.response(tag).is_err());
        rig.finish();
    }

    #[test]
    fn dmesg_gives_the_ring_and_then_follows() {
        let mut rig = rig();
        append(&mut rig, "<48>1 2026-11-20T23:38:27.785629Z 0 kvs - - - one");
        let tag = rig.stream("log.dmesg", json!({"follow": true}));
        assert_eq!(
            rig.responses.pop_front().unwrap().text().unwrap().rsplit(' ').next(),
            Some("one")
        );
        append(&mut rig, "<48>1 2026-11-20T23:38:27.785629Z 0 kvs - - - two");
        assert_eq!(
            rig.responses.pop_front().unwrap().text().unwrap().rsplit(' ').next(),
            Some("two")
        );
        rig.request("log.cancel", json!({"matchtag": tag}));
        assert_eq!(rig.response(tag).unwrap_err().errno, Errno::ENODATA);
        rig.finish();
    }
}
