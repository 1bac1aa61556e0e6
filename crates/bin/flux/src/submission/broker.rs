//! The brokers of a new instance: `--broker-opts`, `--conf`, `--dump` of `batch` and `alloc`.

use clap::ArgMatches;
use serde_json::{Map, Value};

use super::{
    SubmitError, archive,
    attributes::{json_or_text, set},
    options::{one, strings},
};

/// Where the data of an instance goes when `--dump` names no file.
pub(crate) const DEFAULT_DUMP: &str = "flux-{{jobid}}-dump.tgz";

/// How the brokers are started.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Broker {
    options: Vec<String>,
    conf: Option<Value>,
}

impl Broker {
    /// Reads the options.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub(crate) fn read(matches: &ArgMatches) -> Result<Broker, SubmitError> {
        let mut options: Vec<String> = strings(matches, "broker-opts")
            .iter()
            .flat_map(|o| o.split(','))
            .filter(|o| !o.is_empty())
            .map(str::to_owned)
            .collect();
        if let Some(file) = one(matches, "dump") {
            options.push(format!("-Scontent.dump={file}"));
        }
        let mut conf = Map::new();
        let rules = strings(matches, "conf");
        for rule in &rules {
            configure(&mut conf, rule)?;
        }
        let conf = (!rules.is_empty()).then_some(Value::Object(conf));
        Ok(Broker { options, conf })
    }

    /// Adds an option.
    pub(crate) fn push(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// The command that every rank of the job runs; `rest` becomes the initial program.
    pub(crate) fn command(&self, rest: Vec<String>) -> Vec<String> {
        let conf = self.conf.is_some().then(|| "-c{{tmpdir}}/conf.json".to_owned());
        ["flux", "broker"]
            .map(str::to_owned)
            .into_iter()
            .chain(self.options.iter().cloned())
            .chain(conf)
            .chain(rest)
            .collect()
    }

    /// Adds the configuration file to the files of the job.
    pub(crate) fn add_files(&self, files: &mut Map<String, Value>) {
        if let Some(conf) = &self.conf {
            files.insert("conf.json".into(), archive::json_entry(conf.clone()));
        }
    }
}

/// Applies one `--conf`: TOML or JSON of several lines, `KEY=VALUE`, or a file.
fn configure(conf: &mut Map<String, Value>, rule: &str) -> Result<(), SubmitError> {
    let failed = |problem: String| SubmitError::option("conf", rule, problem);
    let key = |k: &str| {
        !k.is_empty() && k.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let document = if rule.contains('\n') || rule.starts_with('{') {
        parse(rule, rule.trim_start().starts_with('{')).map_err(failed)?
    } else if let Some((name, value)) = rule.split_once('=').filter(|(k, _)| key(k)) {
        return set(conf, name, json_or_text(value));
    } else {
        let text = std::fs::read_to_string(rule)
            .map_err(|error| SubmitError::file("conf", rule, &error))?;
        parse(&text, rule.ends_with(".json")).map_err(failed)?
    };
    merge(conf, document);
    Ok(())
}

fn parse(text: &str, json: bool) -> Result<Map<String, Value>, String> {
    let value: Value = if json {
        serde_json::from_str(text).map_err(|e| e.to_string())?
    } else {
        toml::from_str(text).map_err(|e| e.message().to_owned())?
    };
    match value {
        Value::Object(table) => Ok(table),
        _ => Err("expected a table".into()),
    }
}

/// Later tables are laid over earlier ones. The depth is bounded by the parsers.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configuration_is_laid_over_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.toml");
        std::fs::write(&file, "[resource]\nnoverify = true\npath = \"x\"\n").expect("a file");
        let mut conf = Map::new();
        for rule in [file.to_str().expect("UTF-8"), "resource.path=y", "[queues.a]\n", "{\"n\": 1}"]
        {
            configure(&mut conf, rule).expect("valid");
        }
        assert_eq!(
            Value::Object(conf),
            json!({"resource": {"noverify": true, "path": "y"}, "queues": {"a": {}}, "n": 1})
        );
        assert!(configure(&mut Map::new(), "[\n").is_err());
        assert!(configure(&mut Map::new(), "/nope.toml").is_err());
    }
}
