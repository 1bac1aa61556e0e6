//! How a command fails.

/// The two families of commands print their errors differently, and scripts match the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `flux-NAME: ERROR: text`; usage errors exit 2.
    Script,
    /// `flux-NAME: text`; usage errors exit 1.
    Binary,
    /// The text alone.
    Bare,
}

/// The end of a command that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Name in front of the message, such as `flux-run`.
    pub(crate) program: String,
    /// Shape of the message.
    pub(crate) style: Style,
    /// What went wrong; nothing is printed when empty.
    pub(crate) message: String,
    /// Exit status.
    pub(crate) code: i32,
    /// What could be done about it, a line each.
    pub(crate) hints: Vec<String>,
}

impl Failure {
    /// A failure with exit status 1.
    pub(crate) fn new(style: Style, program: &str, message: impl Into<String>) -> Failure {
        Failure {
            program: program.to_owned(),
            style,
            message: message.into(),
            code: 1,
            hints: Vec::new(),
        }
    }

    /// `program: ERROR: message`.
    pub(crate) fn script(program: &str, message: impl Into<String>) -> Failure {
        Failure::new(Style::Script, program, message)
    }

    /// `program: message`.
    pub(crate) fn binary(program: &str, message: impl Into<String>) -> Failure {
        Failure::new(Style::Binary, program, message)
    }

    /// The message alone.
    pub(crate) fn bare(message: impl Into<String>, code: i32) -> Failure {
        Failure { code, ..Failure::new(Style::Bare, "", message) }
    }

    /// The lines to print on standard error.
    pub(crate) fn lines(&self) -> Vec<String> {
        let program = &self.program;
        let message = &without_numbers(&self.message);
        let mut lines = Vec::with_capacity(1 + self.hints.len());
        if !message.is_empty() {
            lines.push(match self.style {
                Style::Script => format!("{program}: ERROR: {message}"),
                Style::Binary => format!("{program}: {message}"),
                Style::Bare => message.clone(),
            });
        }
        for hint in &self.hints {
            lines.push(match self.style {
                Style::Script => format!("{program}: INFO: {hint}"),
                Style::Binary | Style::Bare => hint.clone(),
            });
        }
        lines
    }
}

/// Without the error number that the standard library puts behind the text of a system error: the
/// text says it already.
fn without_numbers(message: &str) -> String {
    const MARK: &str = " (os error ";
    let mut rest = message;
    let mut out = String::with_capacity(message.len());
    while let Some((before, after)) = rest.split_once(MARK) {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        out.push_str(before);
        rest = match after[end..].strip_prefix(')') {
            Some(tail) if end > 0 => tail,
            _ => {
                out.push_str(MARK);
                after
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_system_errors_are_left_out() {
        let error = std::io::Error::from_raw_os_error(2);
        let failure = Failure::binary("flux-x", format!("/a: {error}: {error}"));
        let text = "flux-x: /a: No such file or directory: No such file or directory";
        assert_eq!(failure.lines(), [text]);
        for text in ["a (os error b) c", "(os error 3", " (os error )", " (os error 12"] {
            assert_eq!(without_numbers(text), text);
        }
    }

    #[test]
    fn styles_differ_as_scripts_expect() {
        let mut failure = Failure::script("flux-resource", "[Errno 17] rank 2 already drained");
        failure.hints.push("Use --force to overwrite existing drain reason".into());
        assert_eq!(
            failure.lines(),
            [
                "flux-resource: ERROR: [Errno 17] rank 2 already drained",
                "flux-resource: INFO: Use --force to overwrite existing drain reason",
            ]
        );
        let failure = Failure::binary("flux-job", "xyz: malformed input");
        assert_eq!(failure.lines(), ["flux-job: xyz: malformed input"]);
        assert_eq!(Failure::bare("", 3).lines(), Vec::<String>::new());
    }
}
