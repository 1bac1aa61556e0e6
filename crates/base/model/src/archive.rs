//! File archives (RFC 37): files, directories and symbolic links as JSON.
//!
//! An archive is a JSON array, whose objects name their path, or an object keyed by path. Paths are
//! checked on reading, so that extracting below a directory stays below it as far as names go.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use crate::blobref::Blobref;

/// Most objects in an archive.
pub const MAX_FILES: usize = 100_000;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

/// Why JSON is no archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// It is neither array nor object.
    #[error("file archive is neither array nor object")]
    Container,
    /// It has more than [`MAX_FILES`] objects.
    #[error("file archive has more than {MAX_FILES} files")]
    TooMany,
    /// A path is absent, empty, absolute, or has an empty, `.` or `..` component or a NUL.
    #[error("file archive has an invalid path '{0}'")]
    Path(String),
    /// An object is wrong.
    #[error("file archive: {path}: {reason}")]
    File {
        /// Path of the object.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A region of a file whose bytes are a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Where the bytes are.
    pub blobref: Blobref,
}

/// What an object holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(String),
    /// A regular file of this size without data: empty or all hole.
    Hole(u64),
    /// A regular file with any JSON encoding of this value.
    Json(Value),
    /// A regular file with this text.
    Text(String),
    /// A regular file with these bytes.
    Bytes(Vec<u8>),
    /// A regular file whose bytes are in the content store; between regions are holes.
    Blobs {
        /// Size of the file.
        size: u64,
        /// In ascending order without overlap.
        regions: Vec<Region>,
    },
}

/// A file system object.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Relative path.
    pub path: String,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Last modification, in seconds since the epoch.
    pub mtime: Option<i64>,
    /// Last status change, in seconds since the epoch.
    pub ctime: Option<i64>,
    /// What it holds.
    pub content: Content,
}

/// Reads a whole archive in either form.
///
/// # Errors
/// The first thing found wrong.
pub fn decode_archive(archive: &Value) -> Result<Vec<File>, ArchiveError> {
    let count = match archive {
        Value::Array(list) => list.len(),
        Value::Object(set) => set.len(),
        _ => return Err(ArchiveError::Container),
    };
    if count > MAX_FILES {
        return Err(ArchiveError::TooMany);
    }
    match archive {
        Value::Object(set) => set.iter().map(|(path, object)| File::decode(path, object)).collect(),
        _ => archive.as_array().into_iter().flatten().map(File::decode_with_path).collect(),
    }
}

/// Writes an archive as an object keyed by path; of two files with one path the later stays.
pub fn encode_archive(files: &[File]) -> Value {
    Value::Object(files.iter().map(|file| (file.path.clone(), file.encode())).collect())
}

impl File {
    /// A regular file with this text.
    pub fn text(path: &str, permissions: u32, text: impl Into<String>) -> Self {
        let content = Content::Text(text.into());
        let mode = S_IFREG | permissions & 0o7777;
        File { path: path.to_owned(), mode, mtime: None, ctime: None, content }
    }

    /// A regular file with these bytes, as text if they are text.
    pub fn bytes(path: &str, permissions: u32, bytes: Vec<u8>) -> Self {
        let content = match String::from_utf8(bytes) {
            // A NUL cannot be carried by every JSON reader.
            Ok(text) if !text.contains('\0') => Content::Text(text),
            Ok(text) => Content::Bytes(text.into_bytes()),
            Err(err) => Content::Bytes(err.into_bytes()),
        };
        let mode = S_IFREG | permissions & 0o7777;
        File { path: path.to_owned(), mode, mtime: None, ctime: None, content }
    }

    /// Permission bits, including set-user-id and its like.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Reads an object of an archive in array form, which names its path.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode_with_path(object: &Value) -> Result<Self, ArchiveError> {
        let path = object.get("path").and_then(Value::as_str).unwrap_or_default();
        File::read(path, object)
    }

    /// Reads the object found under `path` in an archive in object form.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode(path: &str, object: &Value) -> Result<Self, ArchiveError> {
        if object.get("path").is_some() {
            return Err(error(path, "has a path key of its own"));
        }
        File::read(path, object)
    }

    fn read(path: &str, object: &Value) -> Result<Self, ArchiveError> {
        check_path(path)?;
        let object = object.as_object().ok_or_else(|| error(path, "is not an object"))?;
        let bad = |reason| error(path, reason);
        let mode = object.get("mode").and_then(Value::as_u64);
        let mode = mode.and_then(|mode| u32::try_from(mode).ok());
        let mode = mode.ok_or_else(|| bad("mode is missing or invalid"))?;
        let time = |key, reason| match object.get(key) {
            None => Ok(None),
            Some(time) => time.as_i64().map(Some).ok_or_else(|| bad(reason)),
        };
        let mtime = time("mtime", "mtime is not an integer")?;
        let ctime = time("ctime", "ctime is not an integer")?;
        let content = read_content(mode, object).map_err(bad)?;
        Ok(File { path: path.to_owned(), mode, mtime, ctime, content })
    }

    /// The object for an archive in object form, without the path.
    pub fn encode(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| {
            object.insert(key.to_owned(), value);
        };
        put("mode", self.mode.into());
        match &self.content {
            Content::Directory => {}
            Content::Symlink(target) => put("data", target.as_str().into()),
            Content::Hole(size) => put("size", (*size).into()),
            Content::Json(value) => put("data", value.clone()),
            Content::Text(text) => {
                put("size", text.len().into());
                put("data", text.as_str().into());
                put("encoding", "utf-8".into());
            }
            Content::Bytes(bytes) => {
                put("size", bytes.len().into());
                put("data", BASE64.encode(bytes).into());
                put("encoding", "base64".into());
            }
            Content::Blobs { size, regions } => {
                let tuple = |region: &Region| -> Value {
                    let blobref = region.blobref.to_string();
                    vec![region.offset.into(), region.size.into(), Value::String(blobref)].into()
                };
                put("size", (*size).into());
                put("data", regions.iter().map(tuple).collect());
                put("encoding", "blobvec".into());
            }
        }
        for (key, time) in [("mtime", self.mtime), ("ctime", self.ctime)] {
            if let Some(time) = time {
                put(key, time.into());
            }
        }
        Value::Object(object)
    }

    /// The object for an archive in array form, with the path.
    pub fn encode_with_path(&self) -> Value {
        let mut object = Map::new();
        object.insert("path".to_owned(), self.path.as_str().into());
        if let Value::Object(rest) = self.encode() {
            object.extend(rest);
        }
        Value::Object(object)
    }
}

fn error(path: &str, reason: &'static str) -> ArchiveError {
    ArchiveError::File { path: path.chars().take(200).collect(), reason }
}

fn check_path(path: &str) -> Result<(), ArchiveError> {
    let bad = |name: &str| matches!(name, "" | "." | "..");
    if path.len() > 4096 || path.contains('\0') || path.split('/').any(bad) {
        return Err(ArchiveError::Path(path.chars().take(200).collect()));
    }
    Ok(())
}

fn read_content(mode: u32, object: &Map<String, Value>) -> Result<Content, &'static str> {
    let size = match object.get("size") {
        None => None,
        Some(size) => Some(size.as_u64().ok_or("size is not an integer >= 0")?),
    };
    let encoding = match object.get("encoding") {
        None => None,
        Some(name) => Some(name.as_str().ok_or("encoding is not a string")?),
    };
    let data = object.get("data");
    match mode & S_IFMT {
        S_IFDIR if size.is_none() && encoding.is_none() && data.is_none() => Ok(Content::Directory),
        S_IFDIR => Err("a directory must not have size, encoding or data"),
        S_IFLNK if size.is_some() || encoding.is_some() => {
            Err("a symbolic link must not have size or encoding")
        }
        S_IFLNK => match data.and_then(Value::as_str) {
            Some(target) if !target.is_empty() && !target.contains('\0') => {
                Ok(Content::Symlink(target.to_owned()))
            }
            _ => Err("a symbolic link must have its target as data"),
        },
        S_IFREG => read_regular(size, encoding, data),
        _ => Err("mode is not that of a regular file, directory or symbolic link"),
    }
}

fn read_regular(
    size: Option<u64>,
    encoding: Option<&str>,
    data: Option<&Value>,
) -> Result<Content, &'static str> {
    let Some(data) = data else {
        return match (size, encoding) {
            (Some(size), None) => Ok(Content::Hole(size)),
            _ => Err("a regular file without data must have size and no encoding"),
        };
    };
    let text = || data.as_str().ok_or("data is not a string");
    let fits = |len: usize| size.is_none_or(|size| size == len as u64);
    match encoding {
        None if size.is_some() => Err("size without encoding"),
        None => Ok(Content::Json(data.clone())),
        // Batch scripts of Flux come without size.
        Some("utf-8") if fits(text()?.len()) => Ok(Content::Text(text()?.to_owned())),
        Some("base64") => {
            let bytes = BASE64.decode(text()?).map_err(|_| "data is not valid base64")?;
            if fits(bytes.len()) {
                Ok(Content::Bytes(bytes))
            } else {
                Err("size is not that of data")
            }
        }
        Some("utf-8") => Err("size is not that of data"),
        Some("blobvec") => {
            let size = size.ok_or("size is missing")?;
            let list = data.as_array().ok_or("data is not an array")?;
            let mut end = 0;
            let mut regions = Vec::with_capacity(list.len());
            for tuple in list {
                let region = read_region(tuple).ok_or("a region is not [offset, size, blobref]")?;
                if region.offset < end {
                    return Err("regions overlap or are not in order");
                }
                end = region.offset.checked_add(region.size).ok_or("a region is too large")?;
                regions.push(region);
            }
            if end > size {
                return Err("a region lies beyond the end of the file");
            }
            Ok(Content::Blobs { size, regions })
        }
        Some(_) => Err("encoding is unknown"),
    }
}

fn read_region(tuple: &Value) -> Option<Region> {
    let [offset, size, blobref] = tuple.as_array()?.as_slice() else {
        return None;
    };
    Some(Region {
        offset: offset.as_u64()?,
        size: size.as_u64()?,
        blobref: blobref.as_str()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// The examples of RFC 37 with its two wrong sizes put right.
    fn examples() -> Value {
        json!([
            {"path":"appdata/phase1","mode":16893,"mtime":1677604007,"ctime":1677604007},
            {"path":"src","mode":41471,"data":"/users/fred/work/project"},
            {"path":"data/empty","mode":33204,"size":0,"mtime":1677604909,"ctime":1677604909},
            {"path":"config.json","mode":33204,"data":{"resource":{"exclude":"node42"}}},
            {"path":"data.csv","mode":33204,"encoding":"utf-8",
             "data":"iteration,density\n1,35435.555\n2,356655.332\n3,5454545.500\n","size":57},
            {"path":"vectors.dat","mode":33204,"encoding":"base64",
             "data":"MzU0MzUuNTU1CjIsMzU2NjU1LjMzMgozLDU0NTQ1NDUuNTAwCg==","size":37},
            {"path":"kernel8.img","size":8194604,"mtime":1674520056,"ctime":1674520057,"mode":33261,
             "encoding":"blobvec","data":[
                [0,1048576,"sha1-d4a09c5dd5a0d2d570066b6f13e465c73c3f9944"],
                [7340032,854572,"sha1-649d3449aa52ac46e19dc894360409d6abbeb882"]]}
        ])
    }

    #[test]
    fn the_examples_of_the_rfc_round_trip_in_both_forms() {
        let files = decode_archive(&examples()).unwrap();
        assert_eq!(files[0].content, Content::Directory);
        assert_eq!(files[1].content, Content::Symlink("/users/fred/work/project".to_owned()));
        assert_eq!(files[2].content, Content::Hole(0));
        assert!(matches!(files[3].content, Content::Json(_)));
        assert!(matches!(&files[4].content, Content::Text(text) if text.len() == 57));
        assert!(matches!(&files[5].content, Content::Bytes(bytes) if bytes.len() == 37));
        assert!(matches!(&files[6].content, Content::Blobs { regions, .. } if regions.len() == 2));
        let list: Value = files.iter().map(File::encode_with_path).collect();
        assert_eq!(list, examples());
        assert_eq!(decode_archive(&encode_archive(&files)).unwrap(), files);
    }

    #[test]
    fn a_batch_script_needs_no_size() {
        let set = json!({"script": {"mode": 33216, "data": "#!/bin/sh\n", "encoding": "utf-8"}});
        let files = decode_archive(&set).unwrap();
        assert_eq!(files[0], File::text("script", 0o700, "#!/bin/sh\n"));
        assert_eq!(files[0].permissions(), 0o700);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", ".", "a\0"] {
            let set = json!({path: {"mode": 33188, "size": 0}});
            assert!(matches!(decode_archive(&set), Err(ArchiveError::Path(_))), "{path:?}");
        }
        for path in ["a", "a/b", ".bashrc", "a..b", "..."] {
            decode_archive(&json!({path: {"mode": 33188, "size": 0}})).unwrap();
        }
    }

    #[test]
    fn bad_objects_are_refused() {
        let blob = "sha1-d4a09c5dd5a0d2d570066b6f13e465c73c3f9944";
        for object in [
            json!(1),
            json!({}),
            json!({"mode": -1}),
            json!({"mode": 33188}),
            json!({"mode": 8192, "size": 0}),
            json!({"mode": 16893, "size": 0}),
            json!({"mode": 41471}),
            json!({"mode": 41471, "data": ""}),
            json!({"mode": 41471, "data": "x", "encoding": "utf-8"}),
            json!({"mode": 33188, "data": "x", "size": 1}),
            json!({"mode": 33188, "encoding": "utf-8"}),
            json!({"mode": 33188, "data": "x", "size": 2, "encoding": "utf-8"}),
            json!({"mode": 33188, "data": 1, "encoding": "utf-8"}),
            json!({"mode": 33188, "data": "*", "encoding": "base64"}),
            json!({"mode": 33188, "data": "x", "encoding": "rot13"}),
            json!({"mode": 33188, "data": "x", "encoding": "utf-8", "path": "x"}),
            json!({"mode": 33188, "data": "x", "encoding": "utf-8", "mtime": "x"}),
            json!({"mode": 33188, "data": [[0, 9, blob]], "size": 8, "encoding": "blobvec"}),
            json!({"mode": 33188, "data": [[0, 2, blob], [1, 2, blob]], "size": 8, "encoding": "blobvec"}),
            json!({"mode": 33188, "data": [[1, u64::MAX, blob]], "size": 8, "encoding": "blobvec"}),
            json!({"mode": 33188, "data": [[1, 2, "x"]], "size": 8, "encoding": "blobvec"}),
            json!({"mode": 33188, "data": [[1, 2]], "size": 8, "encoding": "blobvec"}),
        ] {
            assert!(decode_archive(&json!({"x": object})).is_err(), "{object}");
        }
        assert_eq!(decode_archive(&json!("x")), Err(ArchiveError::Container));
        assert!(decode_archive(&json!([{"mode": 33188, "size": 0}])).is_err());
    }

    proptest! {
        #[test]
        fn files_of_any_bytes_round_trip(bytes: Vec<u8>, text: String) {
            for bytes in [bytes, text.into_bytes()] {
                let file = File::bytes("x/y", 0o644, bytes);
                prop_assert_eq!(&File::decode("x/y", &file.encode()).unwrap(), &file);
                prop_assert_eq!(&File::decode_with_path(&file.encode_with_path()).unwrap(), &file);
            }
        }
    }
}
