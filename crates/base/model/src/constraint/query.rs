//! The text form of constraints (RFC 35), compiled to RFC 31 JSON.
//!
//! Binding, from loose to tight: `or`, then `and` (written or by juxtaposition), then `not`.
//! Positions in error texts count characters from 0.

use serde_json::{Map, Value};

/// Deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 32;
/// Longest query, in bytes.
pub const MAX_QUERY: usize = 65_536;

/// Why text is no constraint query. These texts are shown after the option that took the query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// An opening parenthesis is never closed.
    #[error("Unclosed parenthesis in position {0}")]
    UnclosedParenthesis(usize),
    /// A closing parenthesis was never opened.
    #[error("Unmatched closing parenthesis in position {0}")]
    UnmatchedParenthesis(usize),
    /// A quote is never closed.
    #[error("Unclosed quote in position {0}")]
    UnclosedQuote(usize),
    /// A word or symbol stands where it cannot.
    #[error("Unexpected '{token}' in position {position}")]
    Unexpected {
        /// The word or symbol.
        token: String,
        /// Where it stands.
        position: usize,
    },
    /// The query ends where a term is needed.
    #[error("Unexpected end of input")]
    UnexpectedEnd,
    /// `-` stands before something that is not a term.
    #[error("Invalid use of '-' in position {0}")]
    BadNegation(usize),
    /// A term has nothing before its colon.
    #[error("Missing operator in position {0}")]
    MissingOperator(usize),
    /// A term has nothing after its colon.
    #[error("Missing operand after '{0}:'")]
    MissingOperand(String),
    /// The operator of a term is one that takes constraints, not words.
    #[error("Invalid operator '{0}'")]
    BadOperator(String),
    /// A term has no operator and there is no default.
    #[error("Missing required operator in '{0}'")]
    NoDefault(String),
    /// The query is empty.
    #[error("Empty query")]
    Empty,
    /// Parentheses nest deeper than [`MAX_DEPTH`].
    #[error("Query is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The query is longer than [`MAX_QUERY`].
    #[error("Query is longer than {MAX_QUERY} bytes")]
    TooLong,
}

/// What operators a query may use and what they become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Syntax<'a> {
    /// Operator of a term without one.
    pub default: Option<&'a str>,
    /// Other spellings: what is written, and the operator it stands for.
    pub aliases: &'a [(&'a str, &'a str)],
    /// Operators whose operand is a list separated by commas.
    pub lists: &'a [&'a str],
}

/// The syntax of option `--requires`: properties by default, and `host`, `hosts`, `rank`.
pub const REQUIRES: Syntax<'static> = Syntax {
    default: Some("properties"),
    aliases: &[("host", "hostlist"), ("hosts", "hostlist"), ("rank", "ranks")],
    lists: &[],
};

/// Compiles a query.
///
/// # Errors
/// The first thing found wrong.
pub fn parse(query: &str, syntax: &Syntax<'_>) -> Result<Value, QueryError> {
    if query.len() > MAX_QUERY {
        return Err(QueryError::TooLong);
    }
    let tokens = tokenize(query)?;
    if tokens.is_empty() {
        return Err(QueryError::Empty);
    }
    let mut parser = Parser { tokens: &tokens, next: 0, syntax };
    let value = parser.or(0)?;
    match parser.peek() {
        None => Ok(value),
        Some(Token { kind: Kind::Close, position, .. }) => {
            Err(QueryError::UnmatchedParenthesis(*position))
        }
        Some(token) => Err(token.unexpected()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Close,
    And,
    Or,
    Not,
    Minus,
    Term,
}

struct Token {
    kind: Kind,
    position: usize,
    /// As written, without quotes.
    text: String,
    /// Bytes of `text` before the colon that ends an operator.
    operator: Option<usize>,
}

impl Token {
    fn unexpected(&self) -> QueryError {
        let token = self.text.chars().take(80).collect();
        QueryError::Unexpected { token, position: self.position }
    }
}

fn tokenize(query: &str) -> Result<Vec<Token>, QueryError> {
    let mut tokens = Vec::new();
    let mut chars = query.chars().enumerate().peekable();
    while let Some(&(position, first)) = chars.peek() {
        let symbol = match first {
            _ if first.is_whitespace() => {
                chars.next();
                continue;
            }
            '(' => Some(Kind::Open),
            ')' => Some(Kind::Close),
            '-' => Some(Kind::Minus),
            '&' => Some(Kind::And),
            '|' => Some(Kind::Or),
            _ => None,
        };
        if let Some(kind) = symbol {
            chars.next();
            let mut text = String::from(first);
            // `&&` and `||` mean the same as one.
            if matches!(kind, Kind::And | Kind::Or) && chars.next_if(|&(_, c)| c == first).is_some()
            {
                text.push(first);
            }
            tokens.push(Token { kind, position, text, operator: None });
            continue;
        }
        let (mut text, mut operator, mut quoted) = (String::new(), None, false);
        while let Some((start, quote)) = chars.next_if(|&(_, c)| !ends_term(c)) {
            if quote == '\'' || quote == '"' {
                quoted = true;
                loop {
                    match chars.next() {
                        Some((_, c)) if c == quote => break,
                        Some((_, c)) => text.push(c),
                        None => return Err(QueryError::UnclosedQuote(start)),
                    }
                }
                continue;
            }
            // Only the first colon counts, and only outside of quotes.
            if quote == ':' && operator.is_none() && !quoted {
                operator = Some(text.len());
            }
            text.push(quote);
        }
        let kind = match text.as_str() {
            "and" if !quoted => Kind::And,
            "or" if !quoted => Kind::Or,
            "not" if !quoted => Kind::Not,
            _ => Kind::Term,
        };
        tokens.push(Token { kind, position, text, operator });
    }
    Ok(tokens)
}

fn ends_term(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '&' | '|')
}

struct Parser<'a> {
    tokens: &'a [Token],
    next: usize,
    syntax: &'a Syntax<'a>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self, kind: Kind) -> bool {
        let taken = self.peek().is_some_and(|token| token.kind == kind);
        self.next += usize::from(taken);
        taken
    }

    fn or(&mut self, depth: usize) -> Result<Value, QueryError> {
        let mut parts = vec![self.and(depth)?];
        while self.take(Kind::Or) {
            parts.push(self.and(depth)?);
        }
        Ok(join("or", parts))
    }

    fn and(&mut self, depth: usize) -> Result<Value, QueryError> {
        let mut parts = vec![self.unary(depth)?];
        while let Some(token) = self.peek() {
            match token.kind {
                Kind::And => self.next += 1,
                Kind::Or | Kind::Close => break,
                Kind::Open | Kind::Not | Kind::Minus | Kind::Term => {}
            }
            parts.push(self.unary(depth)?);
        }
        Ok(join("and", parts))
    }

    fn unary(&mut self, depth: usize) -> Result<Value, QueryError> {
        if depth >= MAX_DEPTH {
            return Err(QueryError::TooDeep);
        }
        let token = self.peek().ok_or(QueryError::UnexpectedEnd)?;
        self.next += 1;
        match token.kind {
            Kind::Term => self.term(token),
            Kind::Not => Ok(join_one("not", self.unary(depth + 1)?)),
            Kind::Minus => match self.peek() {
                // The term must follow at once: `- a` and `-(a|b)` are errors.
                Some(term) if term.kind == Kind::Term && term.position == token.position + 1 => {
                    self.next += 1;
                    Ok(join_one("not", self.term(term)?))
                }
                _ => Err(QueryError::BadNegation(token.position)),
            },
            Kind::Open => {
                let unclosed = QueryError::UnclosedParenthesis(token.position);
                if self.peek().is_none() {
                    return Err(unclosed);
                }
                let inner = self.or(depth + 1)?;
                match self.peek() {
                    None => Err(unclosed),
                    Some(_) if self.take(Kind::Close) => Ok(inner),
                    Some(token) => Err(token.unexpected()),
                }
            }
            Kind::Close | Kind::And | Kind::Or => Err(token.unexpected()),
        }
    }

    fn term(&self, token: &Token) -> Result<Value, QueryError> {
        let (operator, operand) = match token.operator {
            Some(0) => return Err(QueryError::MissingOperator(token.position)),
            Some(colon) if colon + 1 == token.text.len() => {
                return Err(QueryError::MissingOperand(token.text[..colon].to_owned()));
            }
            Some(colon) => (&token.text[..colon], &token.text[colon + 1..]),
            None => {
                let default = self.syntax.default;
                (default.ok_or_else(|| QueryError::NoDefault(token.text.clone()))?, &*token.text)
            }
        };
        let alias = self.syntax.aliases.iter().find(|(written, _)| *written == operator);
        let operator = alias.map_or(operator, |(_, meant)| meant);
        if matches!(operator, "and" | "or" | "not") {
            return Err(QueryError::BadOperator(operator.to_owned()));
        }
        let values: Vec<Value> = if self.syntax.lists.contains(&operator) {
            operand.split(',').map(Value::from).collect()
        } else {
            vec![Value::from(operand)]
        };
        Ok(object(operator, values))
    }
}

fn join(operator: &str, mut parts: Vec<Value>) -> Value {
    if parts.len() == 1 { parts.swap_remove(0) } else { object(operator, parts) }
}

fn join_one(operator: &str, part: Value) -> Value {
    object(operator, vec![part])
}

fn object(operator: &str, values: Vec<Value>) -> Value {
    let mut object = Map::new();
    object.insert(operator.to_owned(), Value::Array(values));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::Constraint;
    use proptest::prelude::*;

    const NAMES: Syntax<'static> =
        Syntax { default: Some("name"), aliases: &[("s", "state")], lists: &["state"] };

    fn compiled(query: &str) -> String {
        parse(query, &NAMES).map_or_else(|err| err.to_string(), |value| value.to_string())
    }

    #[test]
    fn the_examples_of_the_rfc_compile() {
        for (query, json) in [
            ("foo", r#"{"name":["foo"]}"#),
            ("foo bar", r#"{"and":[{"name":["foo"]},{"name":["bar"]}]}"#),
            (
                "foo bar state:started",
                r#"{"and":[{"name":["foo"]},{"name":["bar"]},{"state":["started"]}]}"#,
            ),
            ("a|b|c", r#"{"or":[{"name":["a"]},{"name":["b"]},{"name":["c"]}]}"#),
            ("a|b&c", r#"{"or":[{"name":["a"]},{"and":[{"name":["b"]},{"name":["c"]}]}]}"#),
            ("(a|b)&c", r#"{"and":[{"or":[{"name":["a"]},{"name":["b"]}]},{"name":["c"]}]}"#),
            (
                "(a|-b)&c",
                r#"{"and":[{"or":[{"name":["a"]},{"not":[{"name":["b"]}]}]},{"name":["c"]}]}"#,
            ),
            ("foo:'this is args'", r#"{"foo":["this is args"]}"#),
        ] {
            assert_eq!(compiled(query), json, "{query}");
        }
    }

    #[test]
    fn spellings_quotes_and_aliases_mean_the_same() {
        let and = compiled("a & b");
        for query in ["a && b", "a&&b", "a and b", "a b", " a  b ", "(a) (b)", "'a' \"b\""] {
            assert_eq!(compiled(query), and, "{query}");
        }
        let or = compiled("a|b");
        for query in ["a||b", "a || b", "a or b", "(a or b)"] {
            assert_eq!(compiled(query), or, "{query}");
        }
        assert_eq!(compiled("s:run,sched"), r#"{"state":["run","sched"]}"#);
        assert_eq!(compiled("not a b"), compiled("(not a) b"));
        assert_eq!(compiled("not not a"), r#"{"not":[{"not":[{"name":["a"]}]}]}"#);
        assert_eq!(compiled("-s:run"), compiled("not state:run"));
        assert_eq!(compiled("'and'"), r#"{"name":["and"]}"#);
        assert_eq!(compiled("'x:y'"), r#"{"name":["x:y"]}"#);
        assert_eq!(compiled("a-b"), r#"{"name":["a-b"]}"#);
        assert_eq!(compiled("android"), r#"{"name":["android"]}"#);
        assert_eq!(compiled("t_submit:>1.5"), r#"{"t_submit":[">1.5"]}"#);
        let requires = parse("hosts:fluke[1-2]|rank:3 ^amd", &REQUIRES).unwrap().to_string();
        assert_eq!(
            requires,
            r#"{"or":[{"hostlist":["fluke[1-2]"]},{"and":[{"ranks":["3"]},{"properties":["^amd"]}]}]}"#
        );
    }

    #[test]
    fn errors_have_clear_texts() {
        for (query, text) in [
            ("(", "Unclosed parenthesis in position 0"),
            ("a (b|c", "Unclosed parenthesis in position 2"),
            ("(a|(b)", "Unclosed parenthesis in position 0"),
            ("a)", "Unmatched closing parenthesis in position 1"),
            ("()", "Unexpected ')' in position 1"),
            ("a &", "Unexpected end of input"),
            ("not", "Unexpected end of input"),
            ("& a", "Unexpected '&' in position 0"),
            ("a ||| b", "Unexpected '|' in position 4"),
            ("a or and b", "Unexpected 'and' in position 5"),
            ("-(a|b)", "Invalid use of '-' in position 0"),
            ("- a", "Invalid use of '-' in position 0"),
            ("--a", "Invalid use of '-' in position 0"),
            ("'abc", "Unclosed quote in position 0"),
            ("x:\"abc", "Unclosed quote in position 2"),
            (":a", "Missing operator in position 0"),
            ("a:", "Missing operand after 'a:'"),
            ("and:a", "Invalid operator 'and'"),
            ("", "Empty query"),
            ("  ", "Empty query"),
        ] {
            assert_eq!(compiled(query), text, "{query:?}");
        }
        let error = parse("a", &Syntax::default()).unwrap_err();
        assert_eq!(error.to_string(), "Missing required operator in 'a'");
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        assert_eq!(parse(&"(".repeat(60_000), &NAMES), Err(QueryError::TooDeep));
        assert_eq!(parse(&"not ".repeat(1000), &NAMES), Err(QueryError::TooDeep));
        assert_eq!(parse(&"a ".repeat(40_000), &NAMES), Err(QueryError::TooLong));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text: String, query in r#"([ ()&|:'"-]|and|or|not|ab){0,30}"#) {
            drop(parse(&text, &NAMES));
            // What compiles is a constraint of RFC 31, within its bounds.
            if let Ok(value) = parse(&query, &NAMES) {
                let leaf = |_: &str, values: &[Value]| Ok(Some(values.len()));
                prop_assert!(Constraint::decode(&value, leaf).is_ok());
            }
        }
    }
}
