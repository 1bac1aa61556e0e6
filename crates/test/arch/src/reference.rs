//! Reference pages, made from the catalogue.

use std::fmt::Write;

use flux_api::Method;
use flux_api::catalogue::{self, Entry};
use flux_api::config::catalogue::KEYS;
use flux_api::rpc::Shape;
use flux_lifecycle::attributes;

fn methods(page: &mut String, entry: &Entry) {
    let names = entry.services.join("`, `");
    writeln!(page, "\n## `{names}`\n").ok();
    writeln!(page, "| Topic | Who | Responses | Request → response | What it does |").ok();
    writeln!(page, "|---|---|---|---|---|").ok();
    for method in entry.methods {
        let Method { topic, request, response, doc, .. } = method;
        let who = match method.role.0 {
            1 => "owner",
            3 => "user",
            _ => "anybody",
        };
        let shape = match method.shape {
            Shape::Unary => "one",
            Shape::Streaming => "stream",
            Shape::Either => "one or stream",
            Shape::Silent => "none",
        };
        let doc = doc.trim();
        writeln!(page, "| `{topic}` | {who} | {shape} | {request} → {response} | {doc} |").ok();
    }
}

/// The page of every RPC: who may call it, how it is answered, what it does.
#[must_use]
pub fn rpc_page() -> String {
    let mut page = String::from(
        "# RPCs\n\nMade from `crates/api` by `BLESS=1 cargo nextest run -p flux-arch`. Bodies are the\n\
         types of that crate; their fields are described there.\n",
    );
    for entry in catalogue::SERVICES {
        methods(&mut page, entry);
    }
    page
}

/// The page of every broker attribute.
#[must_use]
pub fn attribute_page() -> String {
    let mut page = String::from(
        "# Attributes\n\nMade from `crates/core/lifecycle/src/attributes.rs`.\n\n\
         | Attribute | Command line | Once set | Default |\n|---|---|---|---|\n",
    );
    for (name, flags, default) in attributes::TABLE {
        let line = if flags & attributes::READ_ONLY != 0 { "no" } else { "yes" };
        let set = if flags & attributes::IMMUTABLE != 0 {
            "immutable"
        } else if flags & attributes::RUNTIME != 0 {
            "may change"
        } else {
            "only with force"
        };
        let default = default.map_or("–".to_string(), |value| format!("`{value}`"));
        writeln!(page, "| `{name}` | {line} | {set} | {default} |").ok();
    }
    page
}

/// The page of every configuration key.
#[must_use]
pub fn config_page() -> String {
    let mut page = String::from(
        "# Configuration\n\nMade from `crates/api/src/config/catalogue.rs`.\n\n\
         A *live* key takes effect with `flux config reload` (`systemctl reload flux`); the others \
         with a\nrestart of the brokers. `*` is a name that you choose.\n",
    );
    let mut table = "";
    for key in KEYS {
        let head = key.name.split('.').next().unwrap_or_default();
        if head != table {
            table = head;
            writeln!(page, "\n## `[{table}]`\n").ok();
            writeln!(page, "| Key | Holds | Takes effect | Default | What it is for |").ok();
            writeln!(page, "|---|---|---|---|---|").ok();
        }
        let when = match (key.inert, key.live) {
            (true, _) => "never",
            (false, true) => "live",
            (false, false) => "restart",
        };
        let default = match key.default {
            "" => "–".to_string(),
            value => format!("`{value}`"),
        };
        let (name, holds, doc) = (key.name, key.kind.phrase(), key.doc);
        writeln!(page, "| `{name}` | {holds} | {when} | {default} | {doc} |").ok();
    }
    page
}
