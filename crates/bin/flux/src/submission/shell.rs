//! Options that become options of the job shell: streams, signal, task map.

use serde_json::{Map, Value, json};

use super::{
    SubmitError,
    attributes::set,
    duration,
    options::{Common, Streams},
};

/// The shell option `signal` of `--signal=[SIG][@TIME]`.
///
/// # Errors
/// An unknown signal or a time that is no duration.
pub(crate) fn signal(text: &str) -> Result<Value, SubmitError> {
    let (name, time) = match text.split_once('@') {
        Some((name, time)) => (name, Some(time)),
        None => (text, None),
    };
    let name = if name.is_empty() { "USR1" } else { name };
    let signum = flux_model::signal::number(name)
        .ok_or_else(|| SubmitError::Signal(text.into(), name.into()))?;
    let timeleft = match time {
        None => Value::from(60),
        Some(time) => {
            let seconds = duration::seconds(time, 1.0).filter(|s| s.is_finite());
            let seconds =
                seconds.ok_or_else(|| SubmitError::SignalTime(text.into(), time.into()))?;
            // The shell takes whole seconds, or a duration as text.
            if seconds.fract() == 0.0 { duration::json(seconds) } else { Value::from(time) }
        }
    };
    Ok(json!({"signum": signum, "timeleft": timeleft}))
}

/// The shell option `taskmap` of `--taskmap=SCHEME[:VALUE]`.
pub(crate) fn taskmap(text: &str) -> Value {
    let (scheme, value) = text.split_once(':').unwrap_or((text, ""));
    json!({"scheme": scheme, "value": value})
}

/// Adds the options for standard input, output and error.
///
/// # Errors
/// None in practice: the keys are fixed.
pub(crate) fn streams(
    options: &mut Map<String, Value>,
    streams: &Streams,
) -> Result<(), SubmitError> {
    let mut put = |key: &str, value: Value| set(options, key, value);
    if let Some(path) = streams.input.as_deref().filter(|p| !is_ranks(p)) {
        put("input.stdin.type", "file".into())?;
        put("input.stdin.path", path.into())?;
    }
    for (stream, path) in [("stdout", &streams.output), ("stderr", &streams.error)] {
        // `none` and `kvs` say: no file.
        if let Some(path) = path.as_deref().filter(|p| !matches!(*p, "none" | "kvs")) {
            put(&format!("output.{stream}.type"), "file".into())?;
            put(&format!("output.{stream}.path"), path.into())?;
            if streams.label {
                put(&format!("output.{stream}.label"), true.into())?;
            }
        }
    }
    if streams.unbuffered {
        put("output.stdout.buffer.type", "none".into())?;
        put("output.stderr.buffer.type", "none".into())?;
        put("output.batch-timeout", 0.05.into())?;
        put("input.batch-timeout", 0.0.into())?;
    }
    Ok(())
}

/// Whether `--input` names task ranks (who gets the standard input of `flux run`) and no file.
pub(crate) fn is_ranks(input: &str) -> bool {
    input == "all"
        || (input.starts_with(|c: char| c.is_ascii_digit() || c == '[')
            && input.chars().all(|c| c.is_ascii_digit() || "[],-".contains(c)))
}

/// Adds the options common to all commands, those of `--setopt` last so that they win.
///
/// # Errors
/// A bad signal or option key.
pub(crate) fn common(options: &mut Map<String, Value>, common: &Common) -> Result<(), SubmitError> {
    streams(options, &common.streams)?;
    if let Some(text) = &common.signal {
        options.insert("signal".into(), signal(text)?);
    }
    if let Some(text) = &common.taskmap {
        options.insert("taskmap".into(), taskmap(text));
    }
    for option in &common.setopt {
        let (key, value) = super::attributes::key_value(option);
        set(options, key, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_default_to_usr1_a_minute_before() {
        assert_eq!(signal(""), Ok(json!({"signum": 10, "timeleft": 60})));
        assert_eq!(signal("SIGUSR2"), Ok(json!({"signum": 12, "timeleft": 60})));
        assert_eq!(signal("@5m"), Ok(json!({"signum": 10, "timeleft": 300})));
        assert_eq!(signal("15@0.5s"), Ok(json!({"signum": 15, "timeleft": "0.5s"})));
        assert_eq!(
            signal("FOO").expect_err("no signal").to_string(),
            "--signal=FOO: signal 'FOO' is invalid"
        );
        assert!(signal("@x").is_err() && signal("0").is_err() && signal("99").is_err());
    }

    #[test]
    fn task_maps_have_a_scheme_and_a_value() {
        assert_eq!(taskmap("cyclic"), json!({"scheme": "cyclic", "value": ""}));
        assert_eq!(taskmap("manual:[[0,1]]"), json!({"scheme": "manual", "value": "[[0,1]]"}));
    }

    #[test]
    fn ranks_are_told_from_files() {
        assert!(is_ranks("0-3") && is_ranks("all") && is_ranks("[0,2]"));
        assert!(!is_ranks("in.txt") && !is_ranks("./0"));
    }
}
