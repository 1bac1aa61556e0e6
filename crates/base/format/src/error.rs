//! What can be wrong with a format.

/// Why a format string was refused. The texts are part of the command line interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `{` has no matching `}`.
    #[error("expected '}}' before end of string")]
    Unclosed,
    /// A `{` stands alone at the end of the string.
    #[error("Single '{{' encountered in format string")]
    StrayOpen,
    /// A `}` has no matching `{` and is not doubled.
    #[error("Single '}}' encountered in format string")]
    StrayClose,
    /// A replacement field without a name.
    #[error("format field has no name at position {0}")]
    NoName(usize),
    /// `!x` with an `x` that is not known.
    #[error("Unknown conversion specifier {0}")]
    UnknownConversion(String),
    /// A replacement field inside the spec of another one.
    #[error("nested format fields are not supported: {0}")]
    Nested(String),
    /// A spec that cannot be read, or a width out of range.
    #[error("Invalid format specifier '{spec}' for field '{field}'")]
    Spec {
        /// The field the spec belongs to.
        field: String,
        /// The spec as written.
        spec: String,
    },
    /// A field the command does not offer.
    #[error("Unknown format field: {0}")]
    UnknownField(String),
    /// A format name that is neither built in nor configured.
    #[error("Unknown format name: {0}")]
    UnknownName(String),
    /// A configured format redefines one that is built in.
    #[error("override of builtin format '{0}' not permitted")]
    Redefined(String),
    /// The string is longer than any sensible format.
    #[error("format string is longer than {0} bytes")]
    TooLong(usize),
}
