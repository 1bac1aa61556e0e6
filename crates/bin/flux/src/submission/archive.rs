//! Files that travel inside the jobspec (RFC 37): `--add-file`, the batch script, `--conf`.

use std::os::unix::fs::PermissionsExt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::SubmitError;

/// Largest file that goes into a jobspec.
const MAX_FILE: u64 = 64 << 20;
/// Mode bits of a regular file.
const REGULAR: u32 = 0o100_000;

/// The archive entry of a regular file: text as it is, other bytes in base64.
pub(crate) fn entry(data: &[u8], permissions: u32) -> Value {
    let (data, encoding) = match std::str::from_utf8(data) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (STANDARD.encode(data), "base64"),
    };
    json!({"mode": REGULAR | (permissions & 0o7777), "data": data, "encoding": encoding})
}

/// The archive entry of a JSON document.
pub(crate) fn json_entry(data: Value) -> Value {
    json!({"mode": REGULAR | 0o600, "data": data})
}

/// Adds what `[NAME[:PERMS]=]PATH` names. With a name, a value of several lines is the content
/// itself.
///
/// # Errors
/// A file that cannot be read or is too large, or permissions that are not octal.
pub(crate) fn add(files: &mut Map<String, Value>, argument: &str) -> Result<(), SubmitError> {
    let (head, source) = match argument.split_once('=') {
        // The name of inline data cannot hold a line break, so `=` inside the data is safe.
        Some((name, source)) if !name.contains('\n') => (Some(name), source),
        _ => (None, argument),
    };
    let (name, permissions) = match head.map(|h| h.rsplit_once(':').unwrap_or((h, ""))) {
        None => (source.rsplit('/').next().unwrap_or(source), None),
        Some((name, "")) => (name, None),
        Some((name, octal)) => {
            let bits = u32::from_str_radix(octal, 8).ok().filter(|bits| *bits <= 0o7777);
            let wrong =
                || SubmitError::option("add-file", argument, "permissions are octal digits");
            (name, Some(bits.ok_or_else(wrong)?))
        }
    };
    if name.is_empty() {
        return Err(SubmitError::option("add-file", argument, "a file needs a name"));
    }
    let entry = if head.is_some() && source.contains('\n') {
        entry(source.as_bytes(), permissions.unwrap_or(0o600))
    } else {
        let failed = |error: std::io::Error| SubmitError::file("add-file", source, &error);
        let metadata = std::fs::metadata(source).map_err(failed)?;
        if metadata.len() > MAX_FILE {
            let problem = format!("larger than {} MiB", MAX_FILE >> 20);
            return Err(SubmitError::option("add-file", argument, problem));
        }
        let data = std::fs::read(source).map_err(failed)?;
        entry(&data, permissions.unwrap_or(metadata.permissions().mode()))
    };
    files.insert(name.to_owned(), entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_name_mode_and_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("in.dat");
        std::fs::write(&file, [0xff, 0]).expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        let path = file.display().to_string();
        let mut files = Map::new();
        add(&mut files, &path).expect("a file");
        add(&mut files, &format!("x:755={path}")).expect("a file");
        add(&mut files, "t=a=b\n").expect("inline");
        assert_eq!(
            Value::Object(files),
            json!({
                "in.dat": {"mode": 0o100_640, "data": "/wA=", "encoding": "base64"},
                "x": {"mode": 0o100_755, "data": "/wA=", "encoding": "base64"},
                "t": {"mode": 0o100_600, "data": "a=b\n", "encoding": "utf-8"},
            })
        );
    }

    #[test]
    fn missing_files_and_bad_modes_are_refused() {
        let mut files = Map::new();
        assert_eq!(
            add(&mut files, "/nope").expect_err("missing").to_string(),
            "--add-file: [Errno 2] No such file or directory: '/nope'"
        );
        assert!(add(&mut files, "x:999=/dev/null").is_err());
        assert!(add(&mut files, "=x\ny").is_err());
    }
}
