//! A tree as a tar archive: a key is a path, its value a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use flux_model::blobref::Blobref;
use flux_model::treeobj::Treeobj;
use tar::{Builder, EntryType, Header};

use super::{Blobs, Stopped, directory};

/// Deepest key.
const DEPTH: usize = 1_024;

/// What goes where.
pub(crate) struct Dump<'a, W: Write> {
    pub(crate) blobs: &'a mut dyn Blobs,
    pub(crate) tar: Builder<W>,
    /// Time of every file, in seconds since the epoch.
    pub(crate) mtime: u64,
    /// Hears of each key.
    pub(crate) seen: &'a mut dyn FnMut(&str),
    /// Hears of each key that can't be read; false ends the dump.
    pub(crate) unreadable: &'a mut dyn FnMut(&str, &str) -> bool,
    /// Keys that were written.
    pub(crate) keys: u64,
}

impl<W: Write> Dump<'_, W> {
    /// Writes everything below a root.
    ///
    /// # Errors
    /// The sentence on what can't be read or written.
    pub(crate) fn root(&mut self, root: &Blobref) -> Result<(), String> {
        let blob = self.blobs.load(&[*root]).remove(0)?;
        let entries = directory(&blob).map_err(|text| format!("{root}: {text}"))?;
        self.directory("", entries.into_iter().collect(), 0)
    }

    fn lost(&mut self, path: &str, text: &str) -> Result<(), String> {
        if (self.unreadable)(path, text) { Ok(()) } else { Err(format!("{path}: {text}")) }
    }

    fn directory(
        &mut self,
        path: &str,
        entries: Vec<(String, Treeobj)>,
        depth: usize,
    ) -> Result<(), String> {
        if depth > DEPTH {
            return Err(format!("{path}: deeper than {DEPTH} directories"));
        }
        if entries.is_empty() && !path.is_empty() {
            return self.put(path, EntryType::Directory, &[], None);
        }
        for (name, object) in entries {
            if name.contains('/') || name == ".." {
                self.lost(path, &format!("'{name}' cannot be the name of a file"))?;
                continue;
            }
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            match object {
                Treeobj::Val(data) => self.put(&path, EntryType::Regular, &data, None)?,
                Treeobj::Valref(pieces) => {
                    let read: Result<Vec<Vec<u8>>, String> =
                        self.blobs.load(&pieces).into_iter().collect();
                    match read {
                        Ok(pieces) => {
                            self.put(&path, EntryType::Regular, &pieces.concat(), None)?;
                        }
                        Err(text) => self.lost(&path, &text)?,
                    }
                }
                Treeobj::Symlink { namespace, target } => {
                    let space = namespace.map_or(String::new(), |space| format!("{space}::"));
                    let target = format!("{space}{target}");
                    self.put(&path, EntryType::Symlink, &[], Some(&target))?;
                }
                Treeobj::Dir(inner) => {
                    self.directory(&path, inner.into_iter().collect(), depth + 1)?;
                }
                Treeobj::Dirref(blobref) => {
                    let read = self.blobs.load(&[blobref]).remove(0);
                    match read.and_then(|blob| directory(&blob)) {
                        Ok(inner) => {
                            self.directory(&path, inner.into_iter().collect(), depth + 1)?;
                        }
                        Err(text) => self.lost(&path, &text)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        path: &str,
        kind: EntryType,
        data: &[u8],
        target: Option<&str>,
    ) -> Result<(), String> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(self.mtime);
        header.set_size(data.len() as u64);
        let written = match target {
            Some(target) => self.tar.append_link(&mut header, path, target),
            None => self.tar.append_data(&mut header, path, data),
        };
        written.map_err(|error| format!("{path}: {error}"))?;
        self.keys += u64::from(kind != EntryType::Directory);
        (self.seen)(path);
        Ok(())
    }
}

/// Opens an archive to write, compressed if its name says so.
///
/// # Errors
/// The sentence on why not.
pub(crate) fn writer(path: &str) -> Result<Box<dyn Finish>, String> {
    if [".bz2", ".xz", ".zst", ".lz4"].iter().any(|suffix| path.ends_with(suffix)) {
        return Err(format!("{path}: only gzip is known: use - and a program that compresses"));
    }
    let out: Box<dyn Write> = if path == "-" {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create(path).map_err(|error| format!("{path}: {error}"))?)
    };
    let out = BufWriter::new(out);
    Ok(if path.ends_with(".gz") || path.ends_with(".tgz") {
        Box::new(GzEncoder::new(out, Compression::default()))
    } else {
        Box::new(out)
    })
}

/// Writes the newest root of a store that no broker uses, all of it.
///
/// # Errors
/// The sentence on what can't be read or written.
pub(crate) fn stopped(statedir: &Path, path: &str) -> Result<(), String> {
    let mut store = Stopped::open(statedir, None)?;
    let Some(checkpoint) = store.checkpoint()? else { return Ok(()) };
    let root: Blobref =
        checkpoint.rootref.parse().map_err(|error| format!("{}: {error}", checkpoint.rootref))?;
    let (mut seen, mut unreadable) = (|_: &str| {}, |_: &str, _: &str| false);
    let mut dump = Dump {
        blobs: &mut store,
        tar: Builder::new(writer(path)?),
        mtime: checkpoint.timestamp.max(0.0) as u64,
        seen: &mut seen,
        unreadable: &mut unreadable,
        keys: 0,
    };
    dump.root(&root)?;
    let ended = dump.tar.into_inner().and_then(|out| out.finish());
    ended.map_err(|error| format!("{path}: {error}"))
}

/// A writer with an end.
pub(crate) trait Finish: Write {
    /// Writes what is left.
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

impl<W: Write> Finish for BufWriter<W> {
    fn finish(mut self: Box<Self>) -> std::io::Result<()> {
        self.flush()
    }
}

impl<W: Write> Finish for GzEncoder<W> {
    fn finish(self: Box<Self>) -> std::io::Result<()> {
        (*self).finish()?.flush()
    }
}
