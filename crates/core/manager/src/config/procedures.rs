//! `[job-manager.prolog]`, `.epilog`, `.perilog`, `.housekeeping` and `.plugins`; and `[prolog]`
//! and `[epilog]`, which turn on the same with one table, on every node of a job.

use flux_api::RpcError;
use serde_json::Value;

use super::{Settings, Table};
use crate::housekeeping::Housekeeping;
use crate::plugins::{BUILT_IN, PERILOG};
use crate::procedure::{Procedure, Stage};

/// Seconds until a prolog is stopped, unless the configuration says otherwise.
const PROLOG_TIMEOUT: f64 = 30.0 * 60.0;
/// Seconds from SIGTERM until a procedure is given up.
const KILL_TIMEOUT: f64 = 60.0;

/// Reads all of them into `settings`.
pub(super) fn read(root: &Table<'_>, settings: &mut Settings) -> Result<(), RpcError> {
    let imp = imp(root)?;
    let manager = root.sub("job-manager")?;
    if let Some(manager) = &manager {
        settings.plugins = plugins(manager)?;
        if let Some(perilog) = manager.sub("perilog")? {
            perilog.only(&["log-ignore"])?;
            for pattern in perilog.strings("log-ignore")? {
                let regex = regex_lite::Regex::new(&pattern)
                    .map_err(|error| perilog.error(format_args!("log-ignore: {error}")))?;
                settings.perilog.log_ignore.push(regex);
            }
        }
        settings.housekeeping = housekeeping(manager, imp.as_deref())?;
    }
    let loaded = settings.plugins.iter().any(|name| name == PERILOG);
    for stage in [Stage::Prolog, Stage::Epilog] {
        let plugin = match manager.as_ref().map(|manager| manager.sub(stage.name())).transpose()? {
            Some(Some(table)) => Some(procedure(&table, stage, imp.as_deref(), false)?),
            _ => None,
        };
        let native = match root.sub(stage.name())? {
            Some(table) => Some(procedure(&table, stage, imp.as_deref(), true)?),
            None => None,
        };
        let slot = match stage {
            Stage::Prolog => &mut settings.perilog.prolog,
            _ => &mut settings.perilog.epilog,
        };
        // Without its plugin the former has no effect, as those who know it expect.
        *slot = native.or(plugin.filter(|_| loaded));
    }
    Ok(())
}

fn imp(root: &Table<'_>) -> Result<Option<String>, RpcError> {
    let Some(exec) = root.sub("exec")? else { return Ok(None) };
    Ok(exec.keys.get("imp").and_then(Value::as_str).map(str::to_string))
}

fn plugins(manager: &Table<'_>) -> Result<Vec<String>, RpcError> {
    let Some(value) = manager.keys.get("plugins") else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or_else(|| manager.error("plugins must be an array"))?;
    let mut names = Vec::new();
    for entry in list {
        let name = entry.get("load").or_else(|| entry.get("remove")).and_then(Value::as_str);
        match name {
            Some(name) if entry.get("load").is_some() && BUILT_IN.contains(&name) => {}
            Some(PERILOG) if entry.get("load").is_some() => names.push(PERILOG.to_string()),
            Some(name) if entry.get("remove").is_some() => {
                return Err(manager.error(format_args!(
                    "plugins: {name} cannot be removed: the policies are built in"
                )));
            }
            Some(name) => {
                return Err(manager.error(format_args!(
                    "plugins: {name} is not there: only {PERILOG} and what is built in can be \
                     loaded"
                )));
            }
            None => return Err(manager.error("plugins: each entry needs load = \"NAME\"")),
        }
    }
    Ok(names)
}

/// A duration that 0 and `infinity` turn off.
fn limit(table: &Table<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>, RpcError> {
    match table.duration(key)? {
        None => Ok(default),
        Some(seconds) => Ok(Some(seconds).filter(|seconds| *seconds > 0.0 && seconds.is_finite())),
    }
}

fn command(table: &Table<'_>, stage: Stage, imp: Option<&str>) -> Result<Vec<String>, RpcError> {
    let command = match table.keys.get("command") {
        Some(Value::String(line)) => {
            vec!["sh".to_string(), "-c".to_string(), line.clone()]
        }
        _ => table.strings("command")?,
    };
    if !command.is_empty() {
        return Ok(command);
    }
    let Some(imp) = imp else {
        if stage == Stage::Housekeeping {
            let text = "job-manager.housekeeping implies IMP but exec.imp is undefined";
            return Err(RpcError::new(flux_proto::Errno::EINVAL, text));
        }
        return Err(table.error("no command specified and exec.imp not defined"));
    };
    Ok(vec![imp.to_string(), "run".to_string(), stage.name().to_string()])
}

fn procedure(
    table: &Table<'_>,
    stage: Stage,
    imp: Option<&str>,
    native: bool,
) -> Result<Procedure, RpcError> {
    table.only(&[
        "command",
        "per-rank",
        "timeout",
        "kill-timeout",
        "cancel-on-exception",
        "exit-on-first-error",
    ])?;
    let prolog = stage == Stage::Prolog;
    let flag = |key: &str, default: bool| {
        if table.keys.contains_key(key) { table.flag(key) } else { Ok(default) }
    };
    Ok(Procedure {
        command: command(table, stage, imp)?,
        per_rank: flag("per-rank", native)?,
        timeout: limit(table, "timeout", prolog.then_some(PROLOG_TIMEOUT))?,
        kill_timeout: limit(table, "kill-timeout", Some(KILL_TIMEOUT))?.unwrap_or(KILL_TIMEOUT),
        cancel_on_exception: flag("cancel-on-exception", prolog)?,
    })
}

fn housekeeping(manager: &Table<'_>, imp: Option<&str>) -> Result<Option<Housekeeping>, RpcError> {
    let Some(table) = manager.sub("housekeeping")? else { return Ok(None) };
    table.only(&["command", "release-after", "exit-on-first-error", "use-systemd-unit"])?;
    let procedure = Procedure {
        command: command(&table, Stage::Housekeeping, imp)?,
        per_rank: true,
        timeout: None,
        kill_timeout: KILL_TIMEOUT,
        cancel_on_exception: false,
    };
    let release_after = table.duration("release-after")?.filter(|seconds| seconds.is_finite());
    Ok(Some(Housekeeping { procedure, release_after }))
}
