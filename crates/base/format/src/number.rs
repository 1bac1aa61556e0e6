//! Numbers under a format spec, as Python's `format()` prints them.

use unicode_width::UnicodeWidthStr;

use crate::spec::{Align, Spec};

/// Digits after the point beyond which a 64-bit float has nothing to say.
const MAX_DIGITS: usize = 400;

/// A float as Python's `repr` writes it: `1.0`, `0.1`, `1e+16`, `inf`, `nan`.
pub(crate) fn repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        return exponent(&format!("{value:e}"));
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { text + ".0" }
}

/// Rewrites Rust's `1e5` to C's `1e+05`.
fn exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((mantissa, exp)) => {
            let (sign, digits) = match exp.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exp),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text.to_owned(),
    }
}

/// C's `%.{digits}g`; trailing zeros stay when `alternate`.
pub(crate) fn general(value: f64, digits: usize, alternate: bool) -> String {
    if !value.is_finite() {
        return repr(value);
    }
    let digits = digits.clamp(1, MAX_DIGITS);
    let rounded = format!("{value:.*e}", digits - 1);
    let exp: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |text: &str| -> String {
        if alternate || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if exp < -4 || exp >= i32::try_from(digits).unwrap_or(i32::MAX) {
        let (mantissa, _) = rounded.split_once('e').unwrap_or((&rounded, ""));
        return exponent(&format!("{}e{exp}", trim(mantissa)));
    }
    let decimals = i32::try_from(digits).unwrap_or(i32::MAX) - 1 - exp;
    trim(&format!("{value:.*}", usize::try_from(decimals).unwrap_or(0)))
}

pub(crate) fn int(spec: &Spec, value: i128) -> String {
    if matches!(spec.kind, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) {
        return float(spec, value as f64);
    }
    let size = value.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        Some('x') => ("0x", format!("{size:x}")),
        Some('X') => ("0X", format!("{size:X}")),
        Some('o') => ("0o", format!("{size:o}")),
        Some('b') => ("0b", format!("{size:b}")),
        Some('s') => return spec.text(&value.to_string(), Align::Left),
        _ => ("", size.to_string()),
    };
    let step = if prefix.is_empty() { 3 } else { 4 };
    let digits = group(&digits, spec.group, step);
    // Flux commands cut integers by precision like text (`{ntasks:>4.4}`), so allow it.
    let cut = spec.precision.is_some_and(|p| digits.len() > p);
    let sign = sign(spec, value < 0);
    if cut {
        return spec.text(&format!("{sign}{digits}"), Align::Right);
    }
    assemble(spec, sign, if spec.alternate { prefix } else { "" }, &digits)
}

pub(crate) fn float(spec: &Spec, value: f64) -> String {
    let size = value.abs();
    let digits = spec.precision.map(|p| p.min(MAX_DIGITS));
    let text = if !size.is_finite() {
        repr(size)
    } else {
        match spec.kind {
            Some('f' | 'F') => format!("{size:.*}", digits.unwrap_or(6)),
            Some('%') => format!("{:.*}%", digits.unwrap_or(6), size * 100.0),
            Some('e') => exponent(&format!("{size:.*e}", digits.unwrap_or(6))),
            Some('E') => exponent(&format!("{size:.*e}", digits.unwrap_or(6))).to_uppercase(),
            Some('g' | 'n') => general(size, digits.unwrap_or(6), spec.alternate),
            Some('G') => general(size, digits.unwrap_or(6), spec.alternate).to_uppercase(),
            Some('d' | 'x' | 'X' | 'o' | 'b' | 'c') => format!("{:.0}", size.trunc()),
            Some('s') => {
                return spec.text(&repr(value), Align::Left);
            }
            _ => match digits {
                Some(p) => general(size, p, spec.alternate),
                None => repr(size),
            },
        }
    };
    let (whole, rest) = text.split_at(text.find(['.', 'e', 'E', '%']).unwrap_or(text.len()));
    let text = format!("{}{rest}", group(whole, spec.group, 3));
    assemble(spec, sign(spec, value.is_sign_negative() && !value.is_nan()), "", &text)
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        (false, _) => "",
    }
}

fn group(digits: &str, separator: Option<char>, step: usize) -> String {
    let Some(separator) = separator else {
        return digits.to_owned();
    };
    let mut out = String::with_capacity(digits.len() * 2);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(step) {
            out.push(separator);
        }
        out.push(c);
    }
    out
}

fn assemble(spec: &Spec, sign: &str, prefix: &str, digits: &str) -> String {
    if spec.align == Some(Align::Sign) {
        let used = sign.len() + prefix.len();
        let inner = Spec { width: spec.width.saturating_sub(used), ..spec.clone() };
        return format!("{sign}{prefix}{}", inner.pad(digits, digits.width(), Align::Right));
    }
    let text = format!("{sign}{prefix}{digits}");
    spec.pad(&text, text.width(), Align::Right)
}
