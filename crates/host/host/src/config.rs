//! Configuration files: a directory of TOML files, or one TOML or JSON file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use flux_api::config::{self as catalogue, Grade, Step, dotted};
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest configuration file in bytes.
const FILE_MAX: u64 = 64 << 20;

/// Why the configuration cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("Config file error: {}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("Config file error: {}:{line}: {text}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        text: String,
    },
    /// A value that its key cannot have.
    #[error("Config file error: {}:{line}: {text}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key and what is wrong with its value.
        text: String,
    },
    /// A value that JSON cannot express.
    #[error("Config file error: {}: {key}: {text}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Dotted key.
        key: String,
        /// What is wrong with it.
        text: &'static str,
    },
    /// Neither a directory nor a file with a known suffix.
    #[error("Config file error: {}: file name does not end in .toml or .json", path.display())]
    Suffix {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a configuration as [`read_configuration`] does, for those who show no warnings.
///
/// # Errors
/// As there.
pub fn read_config(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    read_configuration(path).map(|found| found.config)
}

/// What was read.
#[derive(Debug, Default)]
pub struct Configuration {
    /// The merged tables.
    pub config: Map<String, Value>,
    /// Keys that nobody knows, a sentence each with file and line.
    pub warnings: Vec<String>,
    /// `FILE:LINE` of each key of TOML files, by its dotted path; of arrays the first thousand.
    pub places: BTreeMap<String, String>,
}

/// Reads `path`: the `*.toml` files of a directory in the order of their names, or one `.toml`
/// or `.json` file. Tables of the same name are merged; of other values the last one counts.
/// Dates become strings.
///
/// # Errors
/// At the first file that cannot be read or parsed, or that has a value of a wrong type.
pub fn read_configuration(path: &Path) -> Result<Configuration, ConfigError> {
    let mut found = Configuration::default();
    if !path.is_dir() {
        read_file(path, &mut found)?;
        return Ok(found);
    }
    let failed = |source| ConfigError::Io { path: path.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().map(std::ffi::OsStr::as_encoded_bytes).unwrap_or_default();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            files.push(file);
        }
    }
    files.sort();
    for file in files {
        read_file(&file, &mut found)?;
    }
    Ok(found)
}

/// Lays `update` over `config`: tables are merged, other values replaced.
pub fn merge(config: &mut Map<String, Value>, update: Map<String, Value>) {
    for (key, value) in update {
        match (config.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                config.insert(key, value);
            }
        }
    }
}

/// Entries of an array whose places are noted.
const PLACES_MAX: usize = 1000;

/// Where keys and entries of arrays begin in TOML text, by their dotted path.
fn starts(text: &str) -> BTreeMap<String, usize> {
    fn of_table(table: &DeTable<'_>, above: &str, found: &mut BTreeMap<String, usize>) {
        for (key, value) in table {
            let name = match above {
                "" => key.get_ref().to_string(),
                _ => format!("{above}.{}", key.get_ref()),
            };
            of_value(value, &name, found);
            found.insert(name, key.span().start);
        }
    }
    fn of_value(value: &Spanned<DeValue<'_>>, name: &str, found: &mut BTreeMap<String, usize>) {
        match value.get_ref() {
            DeValue::Table(table) => of_table(table, name, found),
            DeValue::Array(items) => {
                for (at, item) in items.iter().enumerate().take(PLACES_MAX) {
                    let name = format!("{name}[{at}]");
                    of_value(item, &name, found);
                    found.insert(name, item.span().start);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(table) = DeTable::parse(text) {
        of_table(table.get_ref(), "", &mut found);
    }
    found
}

/// The line of each path, from 1.
fn lines(text: &str) -> BTreeMap<String, usize> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |start| 1 + ends.partition_point(|end| *end < start);
    starts(text).into_iter().map(|(name, start)| (name, line(start))).collect()
}

/// The line of a path, or of what is nearest above it; else the first one.
fn line_of(lines: &BTreeMap<String, usize>, path: &[Step]) -> usize {
    let above = (1..=path.len()).rev().filter_map(|count| path.get(..count));
    above.filter_map(|path| lines.get(&dotted(path))).next().copied().unwrap_or(1)
}

fn line_at(text: &str, start: usize) -> usize {
    1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count()
}

fn read_file(path: &Path, found: &mut Configuration) -> Result<(), ConfigError> {
    let failed = |source| ConfigError::Io { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > FILE_MAX {
        return Err(failed(io::Error::other(format!("file exceeds {FILE_MAX} bytes"))));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let (config, lines) = match path.extension().and_then(std::ffi::OsStr::to_str) {
        Some("toml") => (parse_toml(path, &text)?, lines(&text)),
        // JSON has no lines to tell: its findings are at the beginning.
        Some("json") => (parse_json(path, &text)?, BTreeMap::new()),
        _ => return Err(ConfigError::Suffix { path: path.to_path_buf() }),
    };
    let mut findings: Vec<_> = catalogue::check(&config)
        .into_iter()
        .map(|finding| (line_of(&lines, &finding.path), finding))
        .collect();
    findings.sort_by_key(|(line, _)| *line);
    for (line, finding) in findings {
        match finding.grade {
            Grade::Error => {
                let path = path.to_path_buf();
                return Err(ConfigError::Type { path, line, text: finding.text });
            }
            Grade::Warning => {
                found.warnings.push(format!("{}:{line}: {}", path.display(), finding.text));
            }
        }
    }
    let place = |line| format!("{}:{line}", path.display());
    found.places.extend(lines.into_iter().map(|(name, line)| (name, place(line))));
    merge(&mut found.config, config);
    Ok(())
}

/// Parses TOML text as JSON; `path` is for messages.
///
/// # Errors
/// With the line, when the text is no TOML or holds a number that is not finite.
pub fn parse_toml(path: &Path, text: &str) -> Result<Map<String, Value>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = line_at(text, start);
        let text = error.message().to_string();
        ConfigError::Syntax { path: path.to_path_buf(), line, text }
    })?;
    let mut config = Map::new();
    for (key, value) in table {
        let value = to_json(value, &key).map_err(|(key, text)| ConfigError::Value {
            path: path.to_path_buf(),
            key,
            text,
        })?;
        config.insert(key, value);
    }
    Ok(config)
}

fn parse_json(path: &Path, text: &str) -> Result<Map<String, Value>, ConfigError> {
    serde_json::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_path_buf(),
        line: error.line(),
        text: error.to_string(),
    })
}

fn to_json(value: toml::Value, key: &str) -> Result<Value, (String, &'static str)> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| (key.to_string(), "number is not finite"))?,
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => {
            let items = items.into_iter().enumerate();
            let items = items.map(|(index, item)| to_json(item, &format!("{key}[{index}]")));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let mut object = Map::new();
            for (name, value) in table {
                let value = to_json(value, &format!("{key}.{name}"))?;
                object.insert(name, value);
            }
            Value::Object(object)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_merge_in_order_of_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("b.toml", "[t]\ny = 2\nz = [1.5]\n[u]\nwhen = 2020-01-01T00:00:00Z\n");
        write("a.toml", "[t]\nx = true\ny = 1\n");
        write(".hidden.toml", "syntax error");
        write("notes.txt", "syntax error");
        let config = read_config(dir.path()).unwrap();
        let expected = json!({
            "t": { "x": true, "y": 2, "z": [1.5] },
            "u": { "when": "2020-01-01T00:00:00Z" },
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn wrong_types_are_refused_and_unknown_keys_told_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let text = "# tree\n[tbon]\nkeepalive_count = 3\nkeepalive_cout = 3\n\n[own]\nx = 1\n";
        std::fs::write(&path, text).unwrap();
        let found = read_configuration(dir.path()).unwrap();
        let at = |line, text| format!("{}:{line}: {text}", path.display());
        let expected = [
            at(4, "tbon.keepalive_cout: unknown key (did you mean keepalive_count?)"),
            at(6, "own: unknown table"),
        ];
        assert_eq!(found.warnings, expected);
        assert_eq!(found.config["own"]["x"], 1);
        assert_eq!(found.places["tbon.keepalive_count"], format!("{}:3", path.display()));
        assert_eq!(found.places["own.x"], format!("{}:7", path.display()));
        let text = "[bootstrap]\nhosts = [\n  { host = \"a\" },\n  { host = 3 },\n]\n";
        std::fs::write(&path, text).unwrap();
        let error = read_config(dir.path()).unwrap_err().to_string();
        let text = at(4, "bootstrap.hosts[1].host: expected a string, found 3");
        assert_eq!(error, format!("Config file error: {text}"));
    }

    #[test]
    fn errors_name_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "[t]\nx = 1\ny = \n").unwrap();
        let error = read_config(dir.path()).unwrap_err().to_string();
        let start = format!("Config file error: {}:3: ", path.display());
        assert!(error.starts_with(&start), "{error}");
        let path = dir.path().join("c.json");
        std::fs::write(&path, "{\n  \"a\": }").unwrap();
        let error = read_config(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("Config file error: {}:2: ", path.display())));
        std::fs::write(&path, "{\"t\": {\"x\": 1}}").unwrap();
        assert_eq!(Value::Object(read_config(&path).unwrap()), json!({"t": {"x": 1}}));
        let odd = dir.path().join("c.yaml");
        std::fs::write(&odd, "").unwrap();
        assert!(matches!(read_config(&odd), Err(ConfigError::Suffix { .. })));
        assert!(matches!(read_config(&dir.path().join("none")), Err(ConfigError::Io { .. })));
        let nan = parse_toml(&path, "[t]\nx = [nan]").unwrap_err().to_string();
        assert!(nan.ends_with("t.x[0]: number is not finite"), "{nan}");
    }
}
