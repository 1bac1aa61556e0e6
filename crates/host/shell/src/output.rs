//! Where the output of tasks goes: the eventlog or files.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::mustache::{self, Tags, TaskIds};
use crate::options::{Output, OutputStream};

/// Output beyond this is worth a word.
const HIGH_VOLUME: u64 = 100 << 20;

/// A file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("error opening output file '{path}': {reason}")]
pub struct OpenError {
    path: String,
    reason: String,
}

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// stdout.
    Out,
    /// stderr.
    Err,
}

impl Stream {
    /// Name in eventlogs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }

    /// The stream of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "stdout" => Some(Stream::Out),
            "stderr" => Some(Stream::Err),
            _ => None,
        }
    }

    fn options(self, output: &Output) -> &OutputStream {
        match self {
            Stream::Out => &output.stdout,
            Stream::Err => &output.stderr,
        }
    }
}

/// Files of this shell.
#[derive(Debug, Default)]
pub struct Files {
    open: Vec<File>,
    by_path: BTreeMap<String, usize>,
    of: BTreeMap<(Stream, Option<u32>), usize>,
}

impl Files {
    /// Opens the files that this shell writes: those of its own tasks or node, and on the leader
    /// those of the whole job.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn open(
        output: &Output,
        tags: &Tags,
        leader: bool,
        tasks: &[(u32, u32)],
    ) -> Result<Self, OpenError> {
        let mut files = Files::default();
        for stream in [Stream::Out, Stream::Err] {
            let Some(template) = &stream.options(output).path else {
                continue;
            };
            if mustache::is_per_task(template) {
                for (rank, index) in tasks {
                    let file = files.file(output, tags, template, Some((*rank, *index)))?;
                    files.of.insert((stream, Some(*rank)), file);
                }
            } else if leader || mustache::is_per_shell(template) {
                let file = files.file(output, tags, template, None)?;
                files.of.insert((stream, None), file);
            }
        }
        Ok(files)
    }

    fn file(
        &mut self,
        output: &Output,
        tags: &Tags,
        template: &str,
        task: TaskIds,
    ) -> Result<usize, OpenError> {
        let path = tags.render(template, task).into_owned();
        if let Some(known) = self.by_path.get(&path) {
            return Ok(*known);
        }
        let mut options = OpenOptions::new();
        // Appending also keeps stdout and stderr apart that share a file under two names.
        options.append(true).create(true).mode(0o644);
        let opened = options.open(&path).and_then(|file| {
            if !output.append && file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            Ok(file)
        });
        let file =
            opened.map_err(|error| OpenError { path: path.clone(), reason: reason(&error) })?;
        self.open.push(file);
        self.by_path.insert(path, self.open.len() - 1);
        Ok(self.open.len() - 1)
    }

    /// The file for a stream of a task, if this shell has it.
    fn find(&mut self, stream: Stream, rank: Option<u32>) -> Option<&mut File> {
        let at = self.of.get(&(stream, rank)).or_else(|| self.of.get(&(stream, None)))?;
        self.open.get_mut(*at)
    }

    /// Writes a piece; false when this shell has no such file.
    ///
    /// # Errors
    /// When the system cannot write it.
    pub fn write(
        &mut self,
        output: &Output,
        stream: Stream,
        rank: u32,
        data: &[u8],
    ) -> io::Result<bool> {
        let label = stream.options(output).label;
        let Some(file) = self.find(stream, Some(rank)) else {
            return Ok(false);
        };
        if label {
            let mut text = Vec::with_capacity(data.len() + 16);
            for line in data.split_inclusive(|byte| *byte == b'\n') {
                text.extend_from_slice(format!("{rank}: ").as_bytes());
                text.extend_from_slice(line);
            }
            file.write_all(&text)?;
        } else {
            file.write_all(data)?;
        }
        Ok(true)
    }

    /// Writes a line of the shell itself into the file of stderr; false when there is none.
    pub fn log(&mut self, line: &str) -> bool {
        match self.find(Stream::Err, None) {
            Some(file) => file.write_all(line.as_bytes()).is_ok(),
            None => false,
        }
    }
}

/// The path of a stream as it is told to readers: tags of tasks and nodes stay.
#[must_use]
pub fn redirect_path(output: &Output, stream: Stream, tags: &Tags) -> Option<String> {
    let template = stream.options(output).path.as_deref()?;
    Some(if mustache::is_per_shell(template) {
        template.to_string()
    } else {
        tags.render(template, None).into_owned()
    })
}

/// The text of a system error without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error().and_then(|number| u32::try_from(number).ok()) {
        Some(number) => flux_proto::Errno(number).text().to_string(),
        None => error.to_string(),
    }
}

/// Counts what goes to the eventlog and cuts it off at the limit.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    seen: u64,
    dropped: u64,
}

/// What a meter says about a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// So many of its bytes may be recorded.
    pub bytes: usize,
    /// The limit has just been reached.
    pub warn: bool,
}

impl Meter {
    /// Takes note of a piece.
    pub fn count(&mut self, bytes: usize, limit: u64) -> Allowed {
        let before = self.seen;
        self.seen += bytes as u64;
        let room = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
        let allowed = bytes.min(room);
        let warn = self.dropped == 0 && allowed < bytes;
        self.dropped += (bytes - allowed) as u64;
        Allowed { bytes: allowed, warn }
    }

    /// A word about the whole stream at its end.
    #[must_use]
    pub fn summary(&self, stream: Stream) -> Option<String> {
        let name = stream.name();
        if self.dropped > 0 {
            return Some(format!("{name}: {} of {} bytes truncated", self.dropped, self.seen));
        }
        (self.seen > HIGH_VOLUME).then(|| {
            format!(
                "high {name} volume ({}), consider redirecting to a file next time \
                 (e.g. use --output=FILE)",
                size(self.seen)
            )
        })
    }
}

/// Bytes for people: `1G`, `1.5M`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(1u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")];
    for (unit, letter) in units {
        if bytes >= unit {
            let text = format!("{:.1}", bytes as f64 / unit as f64);
            return format!("{}{letter}", text.strip_suffix(".0").unwrap_or(&text));
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use flux_id::{Idset, JobId};
    use serde_json::json;

    fn tags() -> Tags {
        Tags {
            id: JobId(7),
            name: "n".into(),
            nnodes: 1,
            ntasks: 2,
            tmpdir: "/t".into(),
            node_id: 0,
            host: "h".into(),
            cores: Idset::new(),
            gpus: Idset::new(),
        }
    }

    #[test]
    fn a_file_per_task_or_one_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let options = json!({"output": {
            "stdout": {"type": "file", "path": path("o.{{taskid}}")},
            "stderr": {"type": "file", "path": path("e-{{id.dec}}"), "label": true},
        }});
        let output = Options::read(options.as_object(), false).unwrap().output;
        let mut files = Files::open(&output, &tags(), true, &[(0, 0), (1, 1)]).unwrap();
        assert!(files.write(&output, Stream::Out, 1, b"x\n").unwrap());
        assert!(files.write(&output, Stream::Err, 0, b"a\nb\n").unwrap());
        assert!(!files.write(&output, Stream::Out, 5, b"x").unwrap());
        assert!(files.log("flux-shell[0]: hello\n"));
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!((read("o.0"), read("o.1")), (String::new(), "x\n".into()));
        assert_eq!(read("e-7"), "0: a\n0: b\nflux-shell[0]: hello\n");
        assert_eq!(redirect_path(&output, Stream::Err, &tags()).unwrap(), path("e-7"));
        assert_eq!(redirect_path(&output, Stream::Out, &tags()).unwrap(), path("o.{{taskid}}"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let options = json!({"output": {"stdout": {"type": "file", "path": "/no/such/x"}}});
        let output = Options::read(options.as_object(), false).unwrap().output;
        let error = Files::open(&output, &tags(), true, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error opening output file '/no/such/x': No such file or directory"
        );
    }

    #[test]
    fn output_beyond_the_limit_is_counted() {
        let mut meter = Meter::default();
        assert_eq!(meter.count(8, 10), Allowed { bytes: 8, warn: false });
        assert_eq!(meter.count(8, 10), Allowed { bytes: 2, warn: true });
        assert_eq!(meter.count(8, 10), Allowed { bytes: 0, warn: false });
        assert_eq!(meter.summary(Stream::Out).unwrap(), "stdout: 14 of 24 bytes truncated");
        assert_eq!((size(1 << 30), size(1536), size(5)), ("1G".into(), "1.5k".into(), "5".into()));
    }
}
