//! Environments: what came with the caller, and what a started program gets of it.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::identity::Account;

/// Search path of what is started.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Search path of a job shell. The job's own is in its signed request.
const PATH_OF_USERS: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables that tell a job shell where its broker is. All others are the owner's, not the
/// guest's, and some of them load code.
const FOR_SHELLS: [&str; 4] =
    ["FLUX_URI", "FLUX_KVS_NAMESPACE", "FLUX_JOB_ID", "FLUX_ENCLOSING_ID"];

/// Longest value that is passed on, in bytes.
const VALUE_MAX: usize = 4096;

/// Variables that make common programs run code, read other files, or change what they mean; no
/// pattern lets them through to what runs as root.
const NEVER: &[&str] = &[
    // The loader and the C library.
    "LD_*",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "MALLOC_*",
    "LOCPATH",
    "NLSPATH",
    "TZDIR",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    "RESOLV_*",
    "TMPDIR",
    "TMP",
    "TEMP",
    // Shells.
    "BASH_*",
    "BASHOPTS",
    "SHELLOPTS",
    "SHELL",
    "ENV",
    "IFS",
    "PS4",
    "CDPATH",
    "FPATH",
    "ZDOTDIR",
    "GLOBIGNORE",
    "PROMPT_COMMAND",
    "INPUTRC",
    "POSIXLY_CORRECT",
    // Languages.
    "PYTHON*",
    "PERL*",
    "RUBY*",
    "GEM_*",
    "LUA*",
    "NODE_*",
    "JAVA_*",
    "_JAVA_*",
    "JDK_*",
    "CLASSPATH",
    "TCLLIBPATH",
    "AWKPATH",
    "AWKLIBPATH",
    // Programs that scripts call.
    "GIT_*",
    "LESS*",
    "*PAGER",
    "*EDITOR",
    "VISUAL",
    "BROWSER",
    "TERMCAP",
    "TERMINFO*",
    "KRB5*",
    "OPENSSL_*",
    "SSL_*",
    "CURL_*",
    "SSH_*",
    "DBUS_*",
    "SYSTEMD_*",
    "XDG_*",
    // What the IMP says itself.
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "FLUX_OWNER_USERID",
    // Flux: where it finds commands, libraries and configuration.
    "FLUX_CONF*",
    "FLUX_CONNECTOR_*",
    "FLUX_EXEC_*",
    "FLUX_MODULE_*",
    "FLUX_PMI_*",
    "FLUX_PYTHON*",
    "FLUX_SECURITY_*",
    "FLUX_SHELL_*",
    "FLUX_IMP_*",
    "FLUX_SSH*",
    "FLUX_RC_*",
];

/// Names and values, in no particular order. What is not UTF-8 is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// The variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |word: OsString| String::from_utf8(word.into_vec()).ok();
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .collect(),
        )
    }

    /// A variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets a variable, in place of any other of the name.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(key, _)| key != name);
        self.0.push((name.to_string(), value.to_string()));
    }

    /// `NAME=VALUE` as `execve` wants it.
    #[must_use]
    pub fn to_c(&self) -> Vec<CString> {
        self.0
            .iter()
            .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
            .collect()
    }

    /// What a job shell of a user gets.
    #[must_use]
    pub fn for_shell(&self, account: &Account) -> Self {
        let mut env = Self::default();
        for name in FOR_SHELLS {
            if let Some(value) = self.get(name).filter(|value| value.len() <= VALUE_MAX) {
                env.set(name, value);
            }
        }
        env.identify(account, PATH_OF_USERS);
        env.set("LOGNAME", &account.name);
        env.set("SHELL", text(&account.shell));
        env
    }

    /// What a program that runs as root for the instance gets: job id and user, and what the
    /// patterns of the configuration let through.
    #[must_use]
    pub fn for_run(&self, root: &Account, owner: u32, patterns: &[String]) -> Self {
        let mut env = Self::default();
        for (name, value) in self.iter() {
            let always = matches!(name, "FLUX_JOB_ID" | "FLUX_JOB_USERID");
            let let_through = patterns.iter().any(|pattern| matches(pattern, name))
                && !NEVER.iter().any(|pattern| matches(pattern, name));
            if (always || let_through) && is_name(name) && value.len() <= VALUE_MAX {
                env.set(name, value);
            }
        }
        env.identify(root, PATH);
        env.set("FLUX_OWNER_USERID", &owner.to_string());
        env
    }

    fn identify(&mut self, account: &Account, path: &str) {
        self.set("HOME", text(&account.home));
        self.set("USER", &account.name);
        self.set("PATH", path);
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or("/")
}

/// Letters, digits and underscores: what a shell takes for a variable.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a name matches a pattern of glob(7): `*`, `?`, `[a-z]`, `[!a-z]`, `\c`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one more character eaten by it.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], name[n]),
            Some(b'\\') if p + 1 < pattern.len() => (pattern[p + 1] == name[n]).then_some(2),
            Some(byte) => (*byte == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(step), _) => (p, n) = (p + step, n + 1),
            (None, Some((behind, eaten))) => {
                (p, n) = (behind, eaten + 1);
                star = Some((behind, eaten + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the class at the start of `pattern` if it has the byte. Without an end, `[` stands
/// for itself.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first belongs to the class.
    let Some(end) = pattern.iter().skip(first + 1).position(|b| *b == b']') else {
        return (byte == b'[').then_some(1);
    };
    let end = first + 1 + end;
    let set = &pattern[first..end];
    let (mut at, mut found) = (0, false);
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == b'-' {
            found |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= set[at] == byte;
            at += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> Account {
        Account {
            uid: 1,
            gid: 1,
            name: "alice".into(),
            home: "/home/alice".into(),
            shell: "/bin/bash".into(),
        }
    }

    fn inherited(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn names(env: &Environment) -> Vec<&str> {
        let mut names: Vec<&str> = env.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_shell_gets_nothing_of_the_owner_but_where_its_broker_is() {
        let env = inherited(&[
            ("FLUX_URI", "local:///run/flux/local"),
            ("LD_PRELOAD", "/tmp/evil.so"),
            ("PATH", "/tmp/evil"),
            ("HOME", "/tmp/evil"),
            ("FLUX_SHELL_RC_PATH", "/tmp/evil"),
            ("BASH_ENV", "/tmp/evil"),
            ("FLUX_SECURITY_CONFIG_PATTERN", "/tmp/evil"),
        ]);
        let env = env.for_shell(&account());
        assert_eq!(names(&env), ["FLUX_URI", "HOME", "LOGNAME", "PATH", "SHELL", "USER"]);
        assert!(env.iter().all(|(_, value)| !value.contains("evil")));
    }

    #[test]
    fn a_root_program_gets_exactly_what_the_guide_says() {
        let env = inherited(&[
            ("FLUX_JOB_ID", "f1"),
            ("FLUX_JOB_USERID", "5000"),
            ("FLUX_OWNER_USERID", "0"),
            ("FLUX_X", "1"),
            ("PATH", "/tmp/evil"),
            ("LD_PRELOAD", "/tmp/evil.so"),
        ]);
        let plain = env.for_run(&account(), 500, &[]);
        assert_eq!(
            names(&plain),
            ["FLUX_JOB_ID", "FLUX_JOB_USERID", "FLUX_OWNER_USERID", "HOME", "PATH", "USER"]
        );
        assert_eq!(plain.get("FLUX_OWNER_USERID"), Some("500"));
        assert_eq!(plain.get("PATH"), Some(PATH));
        let more = env.for_run(&account(), 500, &["FLUX_*".to_string()]);
        assert_eq!(more.get("FLUX_X"), Some("1"));
        assert_eq!(more.get("FLUX_OWNER_USERID"), Some("500"));
    }

    #[test]
    fn no_pattern_lets_through_what_loads_code() {
        let env = inherited(&[
            ("LD_PRELOAD", "x"),
            ("LD_LIBRARY_PATH", "x"),
            ("BASH_FUNC_ls%%", "() { :; }"),
            ("A B", "x"),
            ("1A", "x"),
            ("PYTHONPATH", "x"),
            ("TMPDIR", "x"),
            ("FLUX_EXEC_PATH", "x"),
            ("FLUX_PYTHONPATH_PREPEND", "x"),
            ("FLUX_CONF_DIR", "x"),
            ("FLUX_RC_EXTRA", "x"),
            ("DBUS_SYSTEM_BUS_ADDRESS", "x"),
            ("SYSTEMD_PAGER", "x"),
            ("FLUX_URI", "x"),
            ("OK", "x"),
        ]);
        for patterns in ["*", "[A-Z]*", "?*"] {
            let env = env.for_run(&account(), 500, &[patterns.to_string()]);
            let wanted = ["FLUX_OWNER_USERID", "FLUX_URI", "HOME", "OK", "PATH", "USER"];
            assert_eq!(names(&env), wanted, "{patterns}");
        }
    }

    #[test]
    fn patterns_are_those_of_glob() {
        for (pattern, yes, no) in [
            ("FLUX_*", "FLUX_X", "XFLUX_"),
            ("*_ID", "JOB_ID", "JOB_IDS"),
            ("A?C", "ABC", "AC"),
            ("[A-C]X", "BX", "DX"),
            ("[!A-C]X", "DX", "BX"),
            ("[]]", "]", "["),
            ("\\*", "*", "A"),
            ("a*b*c", "aXbYc", "aXcYb"),
            ("[", "[", "]"),
        ] {
            assert!(matches(pattern, yes), "{pattern} {yes}");
            assert!(!matches(pattern, no), "{pattern} {no}");
        }
    }

    proptest! {
        #[test]
        fn matching_ends_and_never_panics(pattern in "[a*?\\[\\]!\\\\-]{0,24}", name in "[ab\\]-]{0,40}") {
            let _ = matches(&pattern, &name);
            let everything = format!("*{name}");
            if !name.contains(['*', '?', '[', '\\']) {
                prop_assert!(matches(&everything, &name));
            }
        }
    }
}
