//! The shell options of a job (`attributes.system.shell.options`), read once at the start.
//!
//! Options that this shell does not know are ignored, as others may know them.

use flux_id::{Idset, fsd};
use serde_json::{Map, Value};

/// An option with a value that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The value has the wrong type or is out of range.
    #[error("invalid shell option {name}={value}")]
    Value {
        /// Dotted name of the option.
        name: String,
        /// Its value as JSON.
        value: String,
    },
    /// The type of stdin is neither `service` nor `file`.
    #[error("input.stdin.type={0} invalid")]
    Input(String),
    /// The lower mark is not below the upper.
    #[error("invalid client.lwm and/or client.hwm specified")]
    Marks,
}

/// Where the output of one stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputStream {
    /// File template; `None` for the eventlog.
    pub path: Option<String>,
    /// Each line in a file begins with the task rank.
    pub label: bool,
    /// Lines are kept whole.
    pub line_buffered: bool,
}

/// All of `output`.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Files are appended to.
    pub append: bool,
    /// Most bytes of one stream that go to the eventlog.
    pub limit: u64,
    /// Longest time that output is held back, in seconds.
    pub batch_timeout: f64,
    /// Standard output.
    pub stdout: OutputStream,
    /// Standard error.
    pub stderr: OutputStream,
}

/// A pseudo terminal for tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pty {
    /// Task ranks that get one; `None` for all.
    pub ranks: Option<Idset>,
    /// Their output is recorded.
    pub capture: bool,
    /// Rank 0 waits for somebody to attach.
    pub interactive: bool,
}

/// A signal before the time limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warning {
    /// Signal number.
    pub signum: i32,
    /// Seconds before the end.
    pub timeleft: f64,
}

/// The options of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// 0 silent, 1 debug, 2 trace.
    pub verbose: i64,
    /// Tasks stay in the shell's process group.
    pub nosetpgrp: bool,
    /// `cpu-affinity` as given; `on` by default.
    pub cpu_affinity: String,
    /// `gpu-affinity` as given; `on` by default.
    pub gpu_affinity: String,
    /// Soft limits by name; -1 is infinite.
    pub rlimit: Vec<(String, Value)>,
    /// Simple PMI is served.
    pub pmi: bool,
    /// The mappings are not told by PMI.
    pub pmi_nomap: bool,
    /// Children of each shell in the exchange.
    pub pmi_fanout: u32,
    /// Seconds after the first exit until the job is ended; `None` for never.
    pub exit_timeout: Option<f64>,
    /// A failed task ends the job.
    pub exit_on_error: bool,
    /// Pseudo terminal.
    pub pty: Option<Pty>,
    /// Standard output and error.
    pub output: Output,
    /// File that stdin comes from; `None` for the service.
    pub stdin_path: Option<String>,
    /// Most bytes of input.
    pub input_limit: u64,
    /// Task map scheme and its value.
    pub taskmap: (String, String),
    /// Variables with templates.
    pub env_expand: Vec<(String, String)>,
    /// Signal before the end.
    pub signal: Option<Warning>,
    /// Score for the kernel's choice when memory is short.
    pub oom_adjust: Option<i32>,
    /// The hardware is described in a file for the tasks.
    pub hwloc_xmlfile: bool,
    /// ... only as far as the job owns it.
    pub hwloc_restrict: bool,
    /// Name of the `mpi` option.
    pub mpi: Option<String>,
    /// Options that this shell knows of but does not serve: name, and whether the job shall not
    /// run without it.
    pub unserved: Vec<(&'static str, bool)>,
}

const LIMIT_DEFAULT: u64 = 1 << 30;
const LIMIT_GUEST: u64 = 10 << 20;
const INPUT_LIMIT: u64 = 10 << 20;
const INPUT_LIMIT_MAX: u64 = 32 << 20;
/// Options that this shell does not serve, and whether a job that asks for them cannot do without.
const UNSERVED: [(&str, bool); 8] = [
    ("initrc", true),
    ("userrc", true),
    ("stage-in", true),
    ("stop-tasks-in-exec", true),
    ("coprocess", true),
    ("sysmon", false),
    ("rexec-shutdown-timeout", false),
    ("rexec.sign-required", false),
];

fn bad(name: &str, value: &Value) -> OptionError {
    OptionError::Value { name: name.to_string(), value: value.to_string() }
}

struct Reader<'a>(&'a Map<String, Value>);

impl<'a> Reader<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut parts = name.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    fn flag(&self, name: &str) -> Result<bool, OptionError> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(value) => value.as_i64().map(|n| n != 0).ok_or_else(|| bad(name, value)),
        }
    }

    fn text(&self, name: &str, default: &str) -> Result<String, OptionError> {
        match self.get(name) {
            None => Ok(default.to_string()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Bool(true)) => Ok("on".to_string()),
            Some(Value::Bool(false)) => Ok("off".to_string()),
            Some(value) if value.as_i64() == Some(1) => Ok("on".to_string()),
            Some(value) => Err(bad(name, value)),
        }
    }

    fn seconds(&self, name: &str, default: f64) -> Result<f64, OptionError> {
        self.get(name).map_or(Ok(default), |value| seconds(name, value))
    }
}

fn seconds(name: &str, value: &Value) -> Result<f64, OptionError> {
    let seconds = match value {
        Value::String(text) => fsd::parse(text).ok(),
        value => value.as_f64(),
    };
    seconds.filter(|s| *s >= 0.0).ok_or_else(|| bad(name, value))
}

/// A number of bytes, or a text with a suffix.
fn size(name: &str, value: &Value) -> Result<u64, OptionError> {
    let parsed = match value {
        Value::String(text) => flux_id::size::parse(text),
        value => value.as_u64(),
    };
    parsed.filter(|bytes| *bytes > 0).ok_or_else(|| bad(name, value))
}

fn stream(
    reader: &Reader<'_>,
    name: &str,
    base: &OutputStream,
) -> Result<OutputStream, OptionError> {
    let mut stream = base.clone();
    let key = |part: &str| format!("output.{name}.{part}");
    if let Some(kind) = reader.get(&key("type")) {
        match kind.as_str() {
            Some("kvs") => stream.path = None,
            Some("file") => {
                let path = reader.get(&key("path")).and_then(Value::as_str);
                let path = path.or(base.path.as_deref());
                stream.path =
                    Some(path.ok_or_else(|| bad(&key("path"), &Value::Null))?.to_string());
            }
            _ => return Err(bad(&key("type"), kind)),
        }
    }
    if reader.get(&key("label")).is_some() {
        stream.label = reader.flag(&key("label"))?;
    }
    if let Some(kind) = reader.get(&key("buffer.type")) {
        stream.line_buffered = match kind.as_str() {
            Some("line") => true,
            Some("none") => false,
            _ => return Err(bad(&key("buffer.type"), kind)),
        };
    }
    Ok(stream)
}

fn output(reader: &Reader<'_>, guest: bool) -> Result<Output, OptionError> {
    let append = match reader.get("output.mode") {
        None => false,
        Some(mode) => match mode.as_str() {
            Some("truncate") => false,
            Some("append") => true,
            _ => return Err(bad("output.mode", mode)),
        },
    };
    let default = if guest { LIMIT_GUEST } else { LIMIT_DEFAULT };
    let limit = reader.get("output.limit").map_or(Ok(default), |v| size("output.limit", v))?;
    let limit = limit.min(LIMIT_DEFAULT);
    let mark = |name: &str, default: i64| reader.get(name).map_or(Some(default), Value::as_i64);
    match (mark("output.client.lwm", 100), mark("output.client.hwm", 1000)) {
        (Some(low), Some(high)) if low > 0 && low < high => {}
        _ => return Err(OptionError::Marks),
    }
    let base = OutputStream { path: None, label: false, line_buffered: true };
    let stdout = stream(reader, "stdout", &base)?;
    let stderr =
        stream(reader, "stderr", &OutputStream { line_buffered: false, ..stdout.clone() })?;
    let batch_timeout = reader.seconds("output.batch-timeout", 0.5)?;
    Ok(Output { append, limit, batch_timeout, stdout, stderr })
}

fn ranks(name: &str, value: &Value) -> Result<Option<Idset>, OptionError> {
    match value {
        Value::String(text) if text == "all" => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| bad(name, value)),
        value => {
            let rank = value.as_u64().and_then(|n| u32::try_from(n).ok());
            let rank = rank.filter(|n| *n < 1 << 22).ok_or_else(|| bad(name, value))?;
            Ok(Some(Idset::from_range(rank..=rank)))
        }
    }
}

fn pty(reader: &Reader<'_>) -> Result<Option<Pty>, OptionError> {
    let Some(value) = reader.get("pty") else {
        return Ok(None);
    };
    if !value.is_object() {
        let on = reader.flag("pty")?;
        return Ok(on.then_some(Pty { ranks: None, capture: true, interactive: false }));
    }
    let interactive = reader.flag("pty.interactive")?;
    let mut chosen = match reader.get("pty.ranks") {
        Some(value) => ranks("pty.ranks", value)?,
        None if interactive => Some(Idset::from_range(0..=0)),
        None => None,
    };
    if interactive && let Some(set) = &mut chosen {
        set.insert(0);
    }
    let capture = match reader.get("pty.capture") {
        Some(_) => reader.flag("pty.capture")?,
        None => !interactive,
    };
    Ok(Some(Pty { ranks: chosen, capture, interactive }))
}

fn signal(reader: &Reader<'_>) -> Result<Option<Warning>, OptionError> {
    let Some(value) = reader.get("signal") else {
        return Ok(None);
    };
    let number = |name: &str, value: &Value| {
        let signum = value.as_i64().and_then(|n| i32::try_from(n).ok());
        signum.filter(|n| (0..=64).contains(n)).ok_or_else(|| bad(name, value))
    };
    let mut warning = Warning { signum: 10, timeleft: 60.0 };
    if value.is_object() {
        if let Some(signum) = value.get("signum") {
            warning.signum = number("signal.signum", signum)?;
        }
        if let Some(time) = value.get("timeleft") {
            warning.timeleft = seconds("signal.timeleft", time)?;
        }
    } else if let Value::Bool(on) = value {
        return Ok(on.then_some(warning));
    } else {
        warning.signum = number("signal", value)?;
    }
    Ok((warning.signum > 0).then_some(warning))
}

fn taskmap(reader: &Reader<'_>) -> Result<(String, String), OptionError> {
    let Some(value) = reader.get("taskmap") else {
        return Ok(("block".to_string(), String::new()));
    };
    let scheme =
        value.get("scheme").and_then(Value::as_str).ok_or_else(|| bad("taskmap", value))?;
    let argument = match value.get("value") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    Ok((scheme.to_string(), argument))
}

impl Options {
    /// Reads the options of a job; `guest` when its user is not the instance owner.
    ///
    /// # Errors
    /// The first option of a known name whose value makes no sense.
    pub fn read(options: Option<&Map<String, Value>>, guest: bool) -> Result<Self, OptionError> {
        let empty = Map::new();
        let reader = Reader(options.unwrap_or(&empty));
        let exit_timeout = match reader.get("exit-timeout") {
            None => Some(30.0),
            Some(Value::String(text)) if text == "none" => None,
            Some(value) => Some(seconds("exit-timeout", value)?),
        };
        let pmi = reader.text("pmi", "simple")?;
        let stdin_path = match reader.get("input.stdin.type") {
            None => None,
            Some(kind) => match kind.as_str() {
                Some("service") => None,
                Some("file") => {
                    let path = reader.get("input.stdin.path");
                    let text = path.and_then(Value::as_str);
                    let text =
                        text.ok_or_else(|| bad("input.stdin.path", path.unwrap_or(&Value::Null)))?;
                    Some(text.to_string())
                }
                other => {
                    let text = other.map_or_else(|| kind.to_string(), str::to_string);
                    return Err(OptionError::Input(text));
                }
            },
        };
        let object = |name: &str| match reader.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => {
                Ok(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>())
            }
            Some(value) => Err(bad(name, value)),
        };
        let env_expand = object("env-expand")?
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name, text)),
                value => Err(bad(&format!("env-expand.{name}"), &value)),
            })
            .collect::<Result<_, _>>()?;
        let fanout = reader.get("pmi-simple.exchange.k");
        let pmi_fanout = match fanout {
            None => 2,
            Some(value) => value
                .as_u64()
                .and_then(|k| u32::try_from(k).ok())
                .filter(|k| *k > 0)
                .ok_or_else(|| bad("pmi-simple.exchange.k", value))?,
        };
        let oom_adjust = match reader.get("oom.adjust") {
            None => None,
            Some(value) => Some(
                value
                    .as_i64()
                    .and_then(|n| i32::try_from(n).ok())
                    .filter(|n| (-1000..=1000).contains(n))
                    .ok_or_else(|| bad("oom.adjust", value))?,
            ),
        };
        let verbose = match reader.get("verbose") {
            None => 0,
            Some(Value::Bool(on)) => i64::from(*on),
            Some(value) => value.as_i64().ok_or_else(|| bad("verbose", value))?,
        };
        let input_limit =
            reader.get("input.limit").map_or(Ok(INPUT_LIMIT), |v| size("input.limit", v))?;
        Ok(Options {
            verbose,
            nosetpgrp: reader.flag("nosetpgrp")?,
            cpu_affinity: reader.text("cpu-affinity", "on")?,
            gpu_affinity: reader.text("gpu-affinity", "on")?,
            rlimit: object("rlimit")?,
            pmi: pmi.split(',').any(|word| ["simple", "pmi1", "pmi2", "on"].contains(&word.trim())),
            pmi_nomap: reader.flag("pmi-simple.nomap")?,
            pmi_fanout,
            exit_timeout,
            exit_on_error: reader.flag("exit-on-error")?,
            pty: pty(&reader)?,
            output: output(&reader, guest)?,
            stdin_path,
            input_limit: input_limit.min(INPUT_LIMIT_MAX),
            taskmap: taskmap(&reader)?,
            env_expand,
            signal: signal(&reader)?,
            oom_adjust,
            hwloc_xmlfile: reader.flag("hwloc.xmlfile")?,
            hwloc_restrict: reader.flag("hwloc.restrict")?,
            mpi: reader.get("mpi").and_then(Value::as_str).map(str::to_string),
            unserved: UNSERVED
                .iter()
                .filter(|(name, _)| {
                    reader.get(name).is_some_and(|value| *value != Value::Bool(false))
                })
                .copied()
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Options, OptionError> {
        Options::read(value.as_object(), false)
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let options = Options::read(None, false).unwrap();
        assert_eq!(options.exit_timeout, Some(30.0));
        assert!(options.pmi && !options.exit_on_error && options.pty.is_none());
        assert_eq!(options.output.limit, 1 << 30);
        assert!(options.output.stdout.line_buffered && !options.output.stderr.line_buffered);
        assert_eq!(Options::read(None, true).unwrap().output.limit, 10 << 20);
    }

    #[test]
    fn stderr_follows_stdout_but_for_buffering() {
        let options = read(json!({"output": {
            "mode": "append", "limit": "2M", "batch-timeout": 0.05,
            "stdout": {"type": "file", "path": "x", "label": true, "buffer": {"type": "line"}},
        }}))
        .unwrap();
        let stderr = &options.output.stderr;
        assert_eq!((stderr.path.as_deref(), stderr.label), (Some("x"), true));
        assert!(!stderr.line_buffered && options.output.append);
        assert_eq!(options.output.limit, 2 << 20);
    }

    #[test]
    fn an_interactive_pty_is_rank_0_without_capture() {
        let options = read(json!({"pty": {"interactive": 1}})).unwrap();
        let pty = options.pty.unwrap();
        assert!(pty.interactive && !pty.capture);
        assert_eq!(pty.ranks.unwrap().to_string(), "0");
        let pty = read(json!({"pty": 1})).unwrap().pty.unwrap();
        assert!(pty.capture && pty.ranks.is_none());
    }

    #[test]
    fn nonsense_is_named() {
        for (value, text) in [
            (json!({"input": {"stdin": {"type": "x"}}}), "input.stdin.type=x invalid"),
            (json!({"exit-timeout": "soon"}), "invalid shell option exit-timeout=\"soon\""),
            (
                json!({"output": {"client": {"lwm": 9, "hwm": 9}}}),
                "invalid client.lwm and/or client.hwm specified",
            ),
            (json!({"oom": {"adjust": 1001}}), "invalid shell option oom.adjust=1001"),
        ] {
            assert_eq!(read(value).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn signals_have_three_forms() {
        let signal = |value| read(json!({ "signal": value })).unwrap().signal;
        assert_eq!(signal(json!(0)), None);
        assert_eq!(signal(json!(12)), Some(Warning { signum: 12, timeleft: 60.0 }));
        let given = json!({"signum": 1, "timeleft": "2m"});
        assert_eq!(signal(given), Some(Warning { signum: 1, timeleft: 120.0 }));
    }
}
