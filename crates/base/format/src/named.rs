//! Formats with names: built in, or configured by the user.

use std::collections::BTreeMap;

use crate::error::FormatError;

/// A format that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFormat {
    /// The format string.
    pub format: String,
    /// One line for `-o help`.
    pub description: String,
}

/// The formats of one command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedFormats {
    builtin: BTreeMap<String, NamedFormat>,
    user: BTreeMap<String, NamedFormat>,
}

/// What the value of `-o` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatChoice<'a> {
    /// `help`: list the formats.
    Help,
    /// `get-config=NAME`: print that format as configuration.
    Config(&'a str, &'a NamedFormat),
    /// Use this format string.
    Use(&'a str),
}

impl NamedFormats {
    /// The built-in formats, as (name, format, description).
    pub fn builtin(formats: &[(&str, &str, &str)]) -> NamedFormats {
        let named = |format: &str, description: &str| NamedFormat {
            format: format.to_owned(),
            description: description.to_owned(),
        };
        NamedFormats {
            builtin: formats.iter().map(|(n, f, d)| ((*n).to_owned(), named(f, d))).collect(),
            user: BTreeMap::new(),
        }
    }

    /// Adds a configured format; a later one of the same name wins.
    ///
    /// # Errors
    /// [`FormatError::Redefined`] when the name is built in.
    pub fn add(&mut self, name: &str, format: NamedFormat) -> Result<(), FormatError> {
        if self.builtin.contains_key(name) {
            return Err(FormatError::Redefined(name.to_owned()));
        }
        self.user.insert(name.to_owned(), format);
        Ok(())
    }

    /// A format by name.
    pub fn get(&self, name: &str) -> Option<&NamedFormat> {
        self.builtin.get(name).or_else(|| self.user.get(name))
    }

    /// All formats by name, the built-in ones first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &NamedFormat)> {
        self.builtin.iter().chain(&self.user).map(|(n, f)| (n.as_str(), f))
    }

    /// Reads the value of `-o`: a name, `help`, `get-config=NAME`, or a format string (anything
    /// with a `{`).
    ///
    /// # Errors
    /// [`FormatError::UnknownName`] for a word that names no format.
    pub fn choose<'a>(&'a self, value: &'a str) -> Result<FormatChoice<'a>, FormatError> {
        let unknown = |name: &str| FormatError::UnknownName(name.to_owned());
        if value == "help" {
            return Ok(FormatChoice::Help);
        }
        if let Some(name) = value.strip_prefix("get-config=") {
            let format = self.get(name).ok_or_else(|| unknown(name))?;
            return Ok(FormatChoice::Config(name, format));
        }
        match self.get(value) {
            Some(format) => Ok(FormatChoice::Use(&format.format)),
            None if value.contains('{') => Ok(FormatChoice::Use(value)),
            None => Err(unknown(value)),
        }
    }
}
