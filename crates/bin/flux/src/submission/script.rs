//! The script of `flux batch`: where it comes from, and the directives in it (RFC 36).

use std::io::Read;

use flux_model::directive::Directives;

use super::{SubmitError, error::strerror};

/// Largest batch script.
const MAX_SCRIPT: u64 = 16 << 20;

/// A batch script and the words after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// Name of the job it becomes.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
    /// Arguments it is started with.
    pub(crate) arguments: Vec<String>,
}

impl Script {
    /// Makes a script of a command.
    ///
    /// # Errors
    /// There is no command.
    pub(crate) fn wrap(words: &[String]) -> Result<Script, SubmitError> {
        let first = words.first().ok_or(SubmitError::NoCommand)?;
        Ok(Script {
            name: base(first),
            text: format!("#!/bin/sh\n{}\n", words.join(" ")),
            arguments: Vec::new(),
        })
    }

    /// Reads the script named by the first word, or standard input when there is none or it is `-`.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or has no `#!` line.
    pub(crate) fn open(words: &[String], input: &mut dyn Read) -> Result<Script, SubmitError> {
        let path = words.first().filter(|w| *w != "-");
        let shown = path.map_or("stdin", String::as_str);
        let failed = |error: std::io::Error| SubmitError::Script {
            text: strerror(&error).1,
            path: shown.to_owned(),
        };
        let mut bytes = Vec::new();
        match path {
            Some(path) => {
                let file = std::fs::File::open(path).map_err(failed)?;
                file.take(MAX_SCRIPT + 1).read_to_end(&mut bytes)
            }
            None => input.take(MAX_SCRIPT + 1).read_to_end(&mut bytes),
        }
        .map_err(failed)?;
        if bytes.len() as u64 > MAX_SCRIPT {
            let text = format!("script is larger than {} MiB", MAX_SCRIPT >> 20);
            return Err(SubmitError::Script { text, path: shown.to_owned() });
        }
        let text = String::from_utf8(bytes)
            .ok()
            .filter(|text| text.starts_with("#!"))
            .ok_or_else(|| SubmitError::NotScript(shown.to_owned()))?;
        Ok(Script { name: base(shown), text, arguments: words.iter().skip(1).cloned().collect() })
    }

    /// The options given by directives, in file order.
    ///
    /// # Errors
    /// A directive that RFC 36 forbids, or one that is no option.
    pub(crate) fn options(&self) -> Result<Vec<String>, SubmitError> {
        let wrong = |text: String| SubmitError::Directives(self.name.clone(), text);
        let directives = Directives::parse(&self.text).map_err(|error| wrong(error.to_string()))?;
        let stray = directives
            .items
            .iter()
            .find(|item| item.words.first().is_some_and(|word| !word.starts_with('-')));
        if let Some(item) = stray {
            return Err(wrong(format!(
                "line {}: unknown directive '{}'",
                item.line, item.words[0]
            )));
        }
        Ok(directives.options().map(str::to_owned).collect())
    }
}

fn base(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_input(text: &str, words: &[&str]) -> Result<Script, SubmitError> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Script::open(&words, &mut text.as_bytes())
    }

    #[test]
    fn scripts_come_from_files_input_or_a_command() {
        let script = from_input("#!/bin/sh\ndate\n", &["-", "a", "b"]).expect("valid");
        assert_eq!((script.name.as_str(), script.arguments.len()), ("stdin", 2));
        assert!(matches!(from_input("date\n", &[]), Err(SubmitError::NotScript(_))));
        assert_eq!(
            from_input("", &["/nope"]).expect_err("missing").to_string(),
            "No such file or directory: '/nope'"
        );
        let script = Script::wrap(&["/bin/echo".into(), "hi".into()]).expect("a command");
        assert_eq!(
            (script.name.as_str(), script.text.as_str()),
            ("echo", "#!/bin/sh\n/bin/echo hi\n")
        );
        assert_eq!(Script::wrap(&[]), Err(SubmitError::NoCommand));
    }

    #[test]
    fn directives_give_options() {
        let script = from_input("#!/bin/sh\n#flux: -N4 # nodes\n#flux: --queue=batch\n", &[]);
        assert_eq!(
            script.expect("valid").options(),
            Ok(vec!["-N4".into(), "--queue=batch".into()])
        );
        let stray = from_input("#!/bin/sh\n#flux: -N4\ndate\n#flux: -n1\n", &[]).expect("valid");
        assert!(stray.options().is_err());
        let unknown = from_input("#!/bin/sh\n#flux: nodes\n", &[]).expect("valid");
        assert!(unknown.options().is_err());
    }
}
