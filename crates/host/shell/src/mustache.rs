//! `{{tag}}` in commands, output paths and variables.

use std::borrow::Cow;

use flux_id::{Idset, JobId};

/// What tags stand for on one shell.
#[derive(Debug, Clone)]
pub struct Tags {
    /// Job id.
    pub id: JobId,
    /// Name of the job.
    pub name: String,
    /// Number of shells.
    pub nnodes: u32,
    /// Number of tasks.
    pub ntasks: u32,
    /// Directory of the job.
    pub tmpdir: String,
    /// Shell rank.
    pub node_id: u32,
    /// Host of this shell.
    pub host: String,
    /// Cores of this shell.
    pub cores: Idset,
    /// GPUs of this shell.
    pub gpus: Idset,
}

/// The task a text is for: its rank and its index on the shell.
pub type TaskIds = Option<(u32, u32)>;

impl Tags {
    fn value(&self, tag: &str, task: TaskIds) -> Option<String> {
        Some(match tag {
            "id" | "jobid" | "id.f58" => self.id.f58(),
            "id.dec" => self.id.dec(),
            "id.hex" => self.id.hex(),
            "id.dothex" => self.id.dothex(),
            "id.words" => self.id.words(),
            "id.kvs" => self.id.kvs(),
            "id.emoji" => self.id.emoji(),
            "id.f58plain" => self.id.f58plain(),
            "name" => self.name.clone(),
            "nnodes" => self.nnodes.to_string(),
            "ntasks" | "size" => self.ntasks.to_string(),
            "task.id" | "task.rank" | "taskid" => task?.0.to_string(),
            "task.index" | "task.localid" => task?.1.to_string(),
            "node.id" => self.node_id.to_string(),
            "node.name" => self.host.clone(),
            "node.cores" => self.cores.to_string(),
            "node.gpus" => self.gpus.to_string(),
            "node.ncores" => self.cores.len().to_string(),
            "node.ngpus" => self.gpus.len().to_string(),
            "tmpdir" => self.tmpdir.clone(),
            _ => return None,
        })
    }

    /// The text with its known tags replaced; others stay as they are.
    #[must_use]
    pub fn render<'a>(&self, text: &'a str, task: TaskIds) -> Cow<'a, str> {
        if !text.contains("{{") {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let Some(len) = rest[start + 2..].find("}}") else {
                break;
            };
            let tag = &rest[start + 2..start + 2 + len];
            let end = start + 2 + len + 2;
            out.push_str(&rest[..start]);
            match self.value(tag.trim(), task) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&rest[start..end]),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        Cow::Owned(out)
    }
}

/// Whether a template differs between the tasks of a shell.
#[must_use]
pub fn is_per_task(text: &str) -> bool {
    ["{{task.", "{{taskid}}"].iter().any(|tag| text.contains(tag))
}

/// Whether a template differs between shells.
#[must_use]
pub fn is_per_shell(text: &str) -> bool {
    text.contains("{{node.") || text.contains("{{tmpdir}}") || is_per_task(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags() -> Tags {
        Tags {
            id: JobId(1234),
            name: "job".into(),
            nnodes: 2,
            ntasks: 4,
            tmpdir: "/t".into(),
            node_id: 1,
            host: "h1".into(),
            cores: "0-3".parse().unwrap(),
            gpus: Idset::new(),
        }
    }

    #[test]
    fn known_tags_are_replaced_and_others_stay() {
        let tags = tags();
        let text = "{{name}}-{{id.dec}}.{{task.rank}}.{{task.index}} {{node.name}} {{node.cores}} {{x}} {{";
        assert_eq!(tags.render(text, Some((3, 1))), "job-1234.3.1 h1 0-3 {{x}} {{");
        assert_eq!(tags.render("{{taskid}}", None), "{{taskid}}");
        assert_eq!(tags.render("{{tmpdir}}/script", None), "/t/script");
        assert!(is_per_task("a{{taskid}}") && is_per_shell("{{node.id}}"));
        assert!(!is_per_shell("flux-{{id}}.out"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_rendered(text in "[{}a-z. ]{0,40}") {
            drop(tags().render(&text, None));
        }
    }
}
