//! Manual pages of section 5: the configuration, made from the catalogue of its keys.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use flux_api::config::catalogue::{KEYS, Key};

use crate::release::RELEASE;

/// The tables, and what each is for.
const TABLES: &[(&str, &str)] = &[
    ("access", "who may use the instance, and as what"),
    ("archive", "the archive of finished jobs"),
    ("bootstrap", "the hosts of the instance and how they find each other"),
    ("content-sqlite", "the store, as flux-core knows it"),
    ("content", "the store, and when it is collected"),
    ("cron", "commands at times and after events"),
    ("epilog", "what runs on the nodes of a job after it"),
    ("exec", "how jobs are started, watched and ended"),
    ("fake-resources", "nodes that are not there, for trials"),
    ("heartbeat", "the beat by which brokers know that the instance lives"),
    ("ingest", "where jobs enter"),
    ("job-list", "the listing of jobs"),
    ("job-manager", "the life of jobs: limits on history, prolog, epilog, housekeeping"),
    ("kvs", "the key-value store"),
    ("policy", "defaults and limits of jobs"),
    ("prolog", "what runs on the nodes of a job before it"),
    ("queues", "named queues"),
    ("resource", "what there is to schedule"),
    ("sched", "the scheduler"),
    ("systemd", "systemd, where it runs jobs"),
    ("tbon", "the tree of brokers and its timers"),
];

/// Keys of `/etc/flux/security/conf.d/*.toml`: type, default, what for.
const SIGN: &[(&str, &str, &str, &str)] = &[
    (
        "sign.max-ttl",
        "an integer",
        "",
        "How many seconds after its signature a request is valid. A job that waits longer fails when it is started.",
    ),
    (
        "sign.default-type",
        "a string",
        "",
        "How requests are signed: munge, or none for the owner's own.",
    ),
    (
        "sign.allowed-types",
        "an array of strings",
        "",
        "The mechanisms that are accepted; munge must be among them for jobs of guests.",
    ),
    ("sign.munge.socket-path", "a string", "the socket of libmunge", "The socket of munged."),
];

/// Keys of `/etc/flux/imp/conf.d/*.toml`.
const IMP: &[(&str, &str, &str, &str)] = &[
    (
        "exec.allowed-users",
        "an array of strings",
        "[]",
        "Who may start jobs through the launcher: the owner of the instance.",
    ),
    (
        "exec.allowed-shells",
        "an array of strings",
        "[]",
        "Absolute paths of the job shells that it starts.",
    ),
    (
        "exec.allow-unprivileged-exec",
        "true or false",
        "false",
        "A launcher that is not setuid starts jobs of its caller, for tests.",
    ),
    (
        "run.*.allowed-users",
        "an array of strings",
        "[]",
        "Who may run this program of the site as root.",
    ),
    (
        "run.*.path",
        "a string",
        "",
        "The program: an absolute path that only root can change. It gets no arguments.",
    ),
    (
        "run.*.allowed-environment",
        "an array of strings",
        "[]",
        "Patterns (glob) of variables that it gets beside FLUX_JOB_ID, FLUX_JOB_USERID, FLUX_OWNER_USERID, HOME, USER and PATH.",
    ),
];

/// Examples that belong to a page.
const EXAMPLES: &[(&str, &str)] = &[
    ("access", "[access]\nallow-guest-user = true\nallow-root-owner = true\n"),
    (
        "bootstrap",
        "[bootstrap]\ncurve_cert = \"/etc/flux/system/curve.cert\"\ndefault_port = 8050\n\
         default_bind = \"tcp://eth0:%p\"\ndefault_connect = \"tcp://%h:%p\"\n\
         hosts = [ { host = \"node[1-16]\" } ]\n",
    ),
    ("exec", "[exec]\nimp = \"/usr/libexec/flux/flux-imp\"\nlost-node-grace = \"60s\"\n"),
    ("epilog", "[epilog]\ntimeout = \"5m\"\n"),
    (
        "job-manager",
        "[job-manager]\ninactive-age-limit = \"7d\"\n\n[job-manager.housekeeping]\n\
         release-after = \"30s\"\n",
    ),
    ("policy", "[policy.limits]\nduration = \"1d\"\njob-size.max.nnodes = 64\n"),
    ("prolog", "[prolog]\ntimeout = \"2m\"\n"),
    (
        "queues",
        "[queues.debug]\nrequires = [ \"debug\" ]\n\n[queues.debug.policy.limits]\n\
         duration = \"30m\"\n\n[policy.jobspec.defaults.system]\nqueue = \"debug\"\n",
    ),
    ("resource", "[resource]\npath = \"/etc/flux/system/R\"\nexclude = \"node1\"\n"),
    ("tbon", "[tbon]\nkeepalive_idle = 30\nkeepalive_interval = 10\nkeepalive_count = 12\n"),
    (
        "security-sign",
        "[sign]\nmax-ttl = 1209600\ndefault-type = \"munge\"\nallowed-types = [ \"munge\" ]\n",
    ),
    (
        "security-imp",
        "[exec]\nallowed-users = [ \"flux\" ]\n\
         allowed-shells = [ \"/usr/libexec/flux/flux-shell\" ]\n\n[run.prolog]\n\
         allowed-users = [ \"flux\" ]\npath = \"/etc/flux/system/prolog\"\n",
    ),
];

/// Text as roff: what would be a command or a special character is none.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('`', "");
    text.lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.into() })
        .collect::<Vec<String>>()
        .join("\n")
}

fn head(name: &str, about: &str) -> String {
    format!(
        ".TH {} 5 \"\" \"Ferroflux {RELEASE}\" \"Configuration\"\n.SH NAME\n{} \\- {}\n",
        name.to_uppercase(),
        roff(name),
        roff(about)
    )
}

fn example(page: &mut String, name: &str) {
    for (_, text) in EXAMPLES.iter().filter(|(known, _)| *known == name) {
        write!(page, ".SH EXAMPLE\n.nf\n{}\n.fi\n", roff(text)).ok();
    }
}

fn key(page: &mut String, name: &str, facts: &str, doc: &str) {
    write!(page, ".TP\n\\fB{}\\fR ({})\n{}\n", roff(name), roff(facts), roff(doc)).ok();
}

fn table(name: &str, about: &str) -> String {
    let page_name = format!("flux-config-{name}");
    let mut page = head(&page_name, &format!("table [{name}] of the configuration: {about}"));
    write!(
        page,
        ".SH DESCRIPTION\nKeys of the configuration of an instance, see \\fBflux\\-config\\fR(5). \
         A live key takes effect when the configuration is reloaded, the others when the brokers \
         are restarted. An asterisk stands for a name of your choice.\n.SH KEYS\n"
    )
    .ok();
    let own = |key: &&Key| key.name.split('.').next() == Some(name);
    for entry in KEYS.iter().filter(own) {
        let when = if entry.live { "live" } else { "restart" };
        let default = match entry.default {
            "" => String::new(),
            value => format!("; default {value}"),
        };
        key(&mut page, entry.name, &format!("{}{default}; {when}", entry.kind.phrase()), entry.doc);
    }
    example(&mut page, name);
    page += ".SH SEE ALSO\n\\fBflux\\-config\\fR(1), \\fBflux\\-config\\fR(5)\n";
    page
}

fn main_page() -> String {
    let mut page = head("flux-config", "configuration of Flux");
    page += ".SH DESCRIPTION\nAn instance reads all files \\fI*.toml\\fR of one directory, in the \
             order of their names: \\fI/etc/flux/system/conf.d\\fR for the system instance, else \
             what \\fB\\-\\-config\\-path\\fR or \\fBFLUX_CONF_DIR\\fR names. How the tables are \
             spread over files does not matter. A wrong type or value is refused with file and \
             line; an unknown key is told in the log, and to who reloads.\n.PP\nThe leader reads them, and all brokers \
             follow it, but for \\fB[bootstrap]\\fR and \\fB[tbon]\\fR, which each reads for \
             itself. \\fBflux config reload\\fR, or \\fBsystemctl reload flux\\fR, reads them \
             again; of each key its page says whether it is live.\n.SH TABLES\n";
    for (name, about) in TABLES {
        write!(page, ".TP\n\\fBflux\\-config\\-{}\\fR(5)\n{}\n", roff(name), roff(about)).ok();
    }
    page += ".SH FILES\n.TP\n\\fI/etc/flux/system/conf.d/*.toml\\fR\nThe system instance.\n.TP\n\
             \\fI/etc/flux/security/conf.d/*.toml\\fR\nSignatures: \
             \\fBflux\\-config\\-security\\-sign\\fR(5).\n.TP\n\
             \\fI/etc/flux/imp/conf.d/*.toml\\fR\nThe privileged launcher: \
             \\fBflux\\-config\\-security\\-imp\\fR(5).\n.SH SEE ALSO\n\\fBflux\\-config\\fR(1), \
             \\fBflux\\-doctor\\fR(1)\n";
    page
}

fn security(name: &str, about: &str, files: &str, keys: &[(&str, &str, &str, &str)]) -> String {
    let mut page = head(&format!("flux-config-{name}"), about);
    write!(
        page,
        ".SH DESCRIPTION\nAll files \\fI{}\\fR are read whenever they are needed: there is nothing \
         to reload. They and their directories must belong to root and be writable by nobody else, \
         or nothing is done.\n.SH KEYS\n",
        roff(files)
    )
    .ok();
    for (name, kind, default, doc) in keys {
        let default =
            if default.is_empty() { String::new() } else { format!("; default {default}") };
        key(&mut page, name, &format!("{kind}{default}"), doc);
    }
    example(&mut page, name);
    page += ".SH SEE ALSO\n\\fBflux\\-config\\fR(5), \\fBflux\\-doctor\\fR(1)\n";
    page
}

/// Every page of section 5: name of the file, text.
pub(super) fn pages() -> Vec<(String, String)> {
    let mut pages = vec![("flux-config.5".to_owned(), main_page())];
    for (name, about) in TABLES {
        pages.push((format!("flux-config-{name}.5"), table(name, about)));
    }
    let mut top = head("flux-config-security", "configuration of signatures and of the launcher");
    top += ".SH DESCRIPTION\nWhat is read with the rights of root has directories of its own: \
            \\fBflux\\-config\\-security\\-sign\\fR(5) and \\fBflux\\-config\\-security\\-imp\\fR(5).\n";
    pages.push(("flux-config-security.5".to_owned(), top));
    let sign = "how requests of users are signed and verified";
    let files = "/etc/flux/security/conf.d/*.toml";
    let page = security("security-sign", sign, files, SIGN);
    pages.push(("flux-config-security-sign.5".to_owned(), page));
    let imp = "what the privileged launcher does, and for whom";
    let page = security("security-imp", imp, "/etc/flux/imp/conf.d/*.toml", IMP);
    pages.push(("flux-config-security-imp.5".to_owned(), page));
    pages
}

/// Writes them.
///
/// # Errors
/// The directory or a file cannot be written.
pub(super) fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, text) in pages() {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_on_the_page_of_its_table_and_every_table_has_one() {
        let pages = pages();
        for key in KEYS {
            let table = key.name.split('.').next().unwrap();
            let page = pages.iter().find(|(name, _)| *name == format!("flux-config-{table}.5"));
            let (_, text) = page.unwrap_or_else(|| panic!("[{table}] has no page"));
            assert!(text.contains(&format!("\\fB{}\\fR", roff(key.name))), "{}", key.name);
        }
        for (table, _) in TABLES {
            assert!(KEYS.iter().any(|key| key.name.starts_with(&format!("{table}."))), "{table}");
        }
        for (name, text) in &pages {
            assert!(text.starts_with(".TH FLUX-CONFIG") && text.contains(".SH NAME"), "{name}");
            for line in text.lines().filter(|line| line.starts_with('.')) {
                let known = [".TH ", ".SH ", ".TP", ".PP", ".nf", ".fi"];
                assert!(known.iter().any(|word| line.starts_with(word)), "{name}: {line}");
            }
        }
    }

    #[test]
    fn examples_are_valid() {
        for (name, text) in EXAMPLES {
            toml::from_str::<toml::Table>(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
