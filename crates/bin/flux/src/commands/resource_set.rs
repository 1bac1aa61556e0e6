//! `flux R`: make, combine and read resource sets (RFC 20).

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command};
use flux_id::{Hostlist, Idset};
use flux_model::resource_set::{ResourceSet, VerifyMode, VerifyRules};
use flux_topo::{Allowed, HostTopology, Sysfs, Topology, XmlFile};

use crate::{dispatch::Invocation, failure::Failure, output};

/// Most bytes read from standard input.
const MAX_INPUT: u64 = 1 << 30;

fn text(name: &'static str, short: char, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).short(short).value_name(value).help(help)
}

fn flag(name: &'static str, short: char, help: &'static str) -> Arg {
    Arg::new(name).long(name).short(short).action(ArgAction::SetTrue).help(help)
}

/// The options of `flux R`.
pub(crate) fn command() -> Command {
    let of_input = |name: &'static str, about: &'static str| Command::new(name).about(about);
    Command::new("R")
        .about("Make, combine and read resource sets")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .infer_long_args(true)
        .subcommand(
            Command::new("encode")
                .about("Make a resource set")
                .arg(text("ranks", 'r', "IDSET", "Ranks (default: as many as hosts)"))
                .arg(text("cores", 'c', "IDSET", "Cores of each rank (default: 0)"))
                .arg(text("gpus", 'g', "IDSET", "GPUs of each rank"))
                .arg(text("hosts", 'H', "HOSTS", "Hosts (default: this one)"))
                .arg(flag("local", 'l', "The cores and GPUs that this host has"))
                .arg(
                    text("xml", 'f', "FILE", "The cores and GPUs of a topology that hwloc wrote")
                        .conflicts_with("local"),
                )
                .arg(
                    text("property", 'p', "NAME[:RANKS]", "Give ranks a property")
                        .action(ArgAction::Append),
                )
                .arg(
                    text("type", 't', "TYPE=IDSET", "Give each rank resources of another type")
                        .action(ArgAction::Append),
                ),
        )
        .subcommand(of_input("append", "Join sets that share nothing"))
        .subcommand(of_input("diff", "The first set without the others"))
        .subcommand(of_input("intersect", "What is in all sets"))
        .subcommand(of_input("remap", "Renumber ranks from 0"))
        .subcommand(of_input("verify", "Compare the second set with the first"))
        .subcommand(
            of_input("rerank", "Renumber ranks by the order of hosts")
                .arg(Arg::new("hosts").value_name("HOSTLIST").required(true)),
        )
        .subcommand(
            of_input("set-property", "Give ranks properties")
                .arg(Arg::new("properties").value_name("NAME:RANKS").num_args(1..).required(true)),
        )
        .subcommand(
            of_input("parse-config", "Make the set a configuration describes").arg(
                Arg::new("path")
                    .value_name("PATH")
                    .help("TOML file, or directory of TOML files")
                    .required(true),
            ),
        )
        .subcommand(
            of_input("decode", "Read sets")
                .arg(flag("short", 's', "Print a short form"))
                .arg(flag("nodelist", 'n', "Print the hosts"))
                .arg(flag("ranks", 'r', "Print the ranks"))
                .arg(text("count", 'c', "TYPE", "Print the number of ranks, core or gpu"))
                .arg(text("include", 'i', "RANKS", "Only these ranks"))
                .arg(text("exclude", 'x', "RANKS", "Without these ranks"))
                .arg(text("properties", 'p', "LIST", "Only ranks with these properties")),
        )
}

/// Runs `flux R`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let fail = |text: String| Failure::binary("flux-R", text);
    let Some((name, matches)) = invocation.matches.subcommand() else {
        return Err(fail("missing subcommand".into()));
    };
    if name == "encode" {
        let uname = rustix::system::uname();
        let local = uname.nodename().to_string_lossy();
        print(&encode(matches, &local).map_err(fail)?);
        return Ok(0);
    }
    if name == "parse-config" {
        let path = matches.get_one::<String>("path").map_or("", String::as_str);
        print(&parse_config(Path::new(path)).map_err(fail)?);
        return Ok(0);
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
    read.map_err(|error| fail(format!("stdin: {error}")))?;
    let sets = parse(&text).map_err(fail)?;
    match name {
        "verify" => {
            let faults = verify(&sets).map_err(fail)?;
            for fault in &faults {
                output::error_line(&format!("flux-R: {fault}"));
            }
            return Ok(i32::from(!faults.is_empty()));
        }
        "decode" => output::line(&decode(matches, sets).map_err(fail)?),
        _ => print(&transform(name, matches, sets).map_err(fail)?),
    }
    Ok(0)
}

fn print(set: &ResourceSet) {
    output::line(&output::spaced_json(&set.to_value()));
}

/// The set described by `resource.config` in a file, or in all `*.toml` files of a directory.
fn parse_config(path: &Path) -> Result<ResourceSet, String> {
    let failed = |path: &Path, error: std::io::Error| {
        let text = error.to_string();
        let plain = text.split(" (os error").next().unwrap_or(&text);
        format!("{}: {plain}", path.display())
    };
    let mut files: Vec<PathBuf> = Vec::new();
    if path.is_dir() {
        for entry in path.read_dir().map_err(|error| failed(path, error))? {
            let file = entry.map_err(|error| failed(path, error))?.path();
            if file.extension().is_some_and(|e| e == "toml") {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut entries: Vec<serde_json::Value> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| failed(&file, error))?;
        let mut document: serde_json::Value = toml::from_str(&text)
            .map_err(|error| format!("{}: {}", file.display(), error.message()))?;
        match document.pointer_mut("/resource/config").map(serde_json::Value::take) {
            None => {}
            Some(serde_json::Value::Array(list)) => entries.extend(list),
            Some(_) => return Err(format!("{}: resource.config is no array", file.display())),
        }
    }
    ResourceSet::from_config(&entries.into()).map_err(|error| error.to_string())
}

/// The sets in a stream of JSON objects.
fn parse(text: &str) -> Result<Vec<ResourceSet>, String> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let sets = values
        .map(|value| {
            let value = value.map_err(|error| format!("stdin: {error}"))?;
            ResourceSet::from_value(&value).map_err(|error| format!("stdin: {error}"))
        })
        .collect::<Result<Vec<_>, String>>()?;
    if sets.is_empty() { Err("no resource set on standard input".into()) } else { Ok(sets) }
}

fn idset(matches: &ArgMatches, name: &str) -> Result<Option<Idset>, String> {
    let parse = |text: &String| text.parse().map_err(|error| format!("--{name}={text}: {error}"));
    matches.get_one::<String>(name).map(parse).transpose()
}

/// The hardware of this host, or that of a file, where it is asked for.
fn hardware(matches: &ArgMatches) -> Result<Option<HostTopology>, String> {
    let found = match matches.get_one::<String>("xml") {
        Some(path) => XmlFile::new(Path::new(path), Allowed::All).discover(),
        None if matches.get_flag("local") => Sysfs::default().discover(),
        None => return Ok(None),
    };
    found.map(Some).map_err(|error| error.to_string())
}

fn encode(matches: &ArgMatches, local: &str) -> Result<ResourceSet, String> {
    let found = hardware(matches)?;
    let file = found.as_ref().filter(|_| !matches.get_flag("local"));
    let local = file.map_or(local, |found| found.hostname.as_str());
    let given = matches.get_one::<String>("hosts");
    let hosts = given.map(|h| h.parse::<Hostlist>()).transpose();
    let hosts = hosts.map_err(|error| error.to_string())?;
    let ranks = match (idset(matches, "ranks")?, &hosts) {
        (Some(ranks), _) => ranks,
        (None, Some(hosts)) => Idset::first_n(u32::try_from(hosts.len()).unwrap_or(u32::MAX)),
        (None, None) => Idset::first_n(1),
    };
    let hosts = match hosts {
        Some(hosts) => hosts,
        None => {
            let count = usize::try_from(ranks.len()).unwrap_or(usize::MAX);
            Hostlist::from_hosts(std::iter::repeat_n(local, count)).map_err(|e| e.to_string())?
        }
    };
    let gpus = idset(matches, "gpus")?;
    let gpus = gpus.or_else(|| Some(Idset::first_n(found.as_ref()?.gpu_count())));
    let cores = idset(matches, "cores")?;
    let cores = cores.or_else(|| Some(Idset::first_n(found.as_ref()?.cores().end)));
    let (gpus, cores) = (gpus.unwrap_or_default(), cores.unwrap_or_else(|| Idset::first_n(1)));
    let mut set =
        ResourceSet::encode(&ranks, &cores, &gpus, &hosts).map_err(|error| error.to_string())?;
    for property in matches.get_many::<String>("property").unwrap_or_default() {
        set_property(&mut set, property)?;
    }
    for given in matches.get_many::<String>("type").unwrap_or_default() {
        let wrong = |text: String| format!("--type={given}: {text}");
        let (kind, ids) =
            given.split_once('=').ok_or_else(|| wrong("expected TYPE=IDSET".into()))?;
        let ids: Idset = ids.parse().map_err(|error| wrong(format!("{error}")))?;
        set.set_type(kind, &ids, &ranks).map_err(wrong)?;
    }
    Ok(set)
}

/// Applies `NAME[:RANKS]`; without ranks all of them get the property.
fn set_property(set: &mut ResourceSet, property: &str) -> Result<(), String> {
    let (name, ranks) = match property.split_once(':') {
        Some((name, ranks)) => {
            (name, ranks.parse().map_err(|error| format!("{property}: {error}"))?)
        }
        None => (property, set.ranks()),
    };
    set.set_property(name, &ranks).map_err(|error| error.to_string())
}

fn transform(
    name: &str,
    matches: &ArgMatches,
    sets: Vec<ResourceSet>,
) -> Result<ResourceSet, String> {
    let mut sets = sets.into_iter();
    let first = sets.next().unwrap_or_default();
    let joined = |mut sets: std::vec::IntoIter<ResourceSet>| {
        sets.try_fold(first.clone(), |all, set| all.append(&set)).map_err(|e| e.to_string())
    };
    match name {
        "append" => joined(sets),
        "diff" => Ok(sets.fold(first, |left, set| left.diff(&set))),
        "intersect" => Ok(sets.fold(first, |left, set| left.intersect(&set))),
        "remap" => Ok(joined(sets)?.remap()),
        "rerank" => {
            let hosts = matches.get_one::<String>("hosts").map_or("", String::as_str);
            let hosts: Hostlist = hosts.parse().map_err(|error| format!("{error}"))?;
            joined(sets)?.rerank(&hosts).map_err(|error| error.to_string())
        }
        "set-property" => {
            let mut set = joined(sets)?;
            for property in matches.get_many::<String>("properties").unwrap_or_default() {
                set_property(&mut set, property)?;
            }
            Ok(set)
        }
        other => Err(format!("unknown subcommand {other}")),
    }
}

/// What is wrong with the later sets, measured by the first.
fn verify(sets: &[ResourceSet]) -> Result<Vec<String>, String> {
    let [expected, found @ ..] = sets else {
        return Err("verify needs two resource sets".into());
    };
    if found.is_empty() {
        return Err("verify needs two resource sets".into());
    }
    let rules = VerifyRules { gpu: VerifyMode::AllowExtra, ..VerifyRules::default() };
    Ok(found.iter().flat_map(|found| expected.verify(found, rules)).collect())
}

fn decode(matches: &ArgMatches, sets: Vec<ResourceSet>) -> Result<String, String> {
    let mut sets = sets.into_iter();
    let first = sets.next().unwrap_or_default();
    let mut set = sets.try_fold(first, |all, set| all.union(&set)).map_err(|e| e.to_string())?;
    if let Some(ranks) = idset(matches, "include")? {
        set = set.copy_ranks(&ranks);
    }
    if let Some(ranks) = idset(matches, "exclude")? {
        set = set.without_ranks(&ranks);
    }
    if let Some(list) = matches.get_one::<String>("properties") {
        set = set.copy_properties(list.split(',').map(str::trim).filter(|p| !p.is_empty()));
    }
    Ok(if let Some(kind) = matches.get_one::<String>("count") {
        match kind.as_str() {
            "rank" | "ranks" | "node" | "nodes" => set.nnodes() as u64,
            "core" | "cores" => set.ncores(),
            "gpu" | "gpus" => set.ngpus(),
            other => match set.types().get(other) {
                Some(count) => *count,
                None => return Err(format!("--count={other}: expected ranks, core or gpu")),
            },
        }
        .to_string()
    } else if matches.get_flag("short") {
        set.summary()
    } else if matches.get_flag("nodelist") {
        set.nodelist().to_string()
    } else if matches.get_flag("ranks") {
        set.ranks().to_string()
    } else {
        output::spaced_json(&set.to_value())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flux_r(words: &[&str], input: &str) -> Result<String, String> {
        let matches = command().no_binary_name(true).try_get_matches_from(words).expect("valid");
        let (name, matches) = matches.subcommand().expect("a subcommand");
        let json = |set: ResourceSet| output::spaced_json(&set.to_value());
        match name {
            "encode" => encode(matches, "me").map(json),
            "decode" => decode(matches, parse(input)?),
            "verify" => verify(&parse(input)?).map(|faults| faults.join("\n")),
            name => transform(name, matches, parse(input)?).map(json),
        }
    }

    fn encode_ok(words: &[&str]) -> String {
        flux_r(&[&["encode"], words].concat(), "").expect("valid")
    }

    #[test]
    fn encode_prints_what_flux_prints() {
        assert_eq!(
            encode_ok(&["-r0-1", "-c0-1", "-Hh[0-1]"]),
            r#"{"version": 1, "execution": {"R_lite": [{"rank": "0-1", "children": {"core": "0-1"}}], "starttime": 0.0, "expiration": 0.0, "nodelist": ["h[0-1]"]}}"#
        );
        assert!(encode_ok(&[]).contains(r#""nodelist": ["me"]"#));
        let cores = Sysfs::default().discover().map_or(0, |found| found.cores().end);
        let found = ResourceSet::parse(&encode_ok(&["--local"])).expect("R");
        assert_eq!(found.ncores(), u64::from(cores));
        let missing = flux_r(&["encode", "--xml=/nosuch"], "");
        assert!(missing.is_err_and(|text| text.starts_with("/nosuch: No such file or directory")));
        assert!(encode_ok(&["-r0-2", "-pfast:1"]).contains(r#""properties": {"fast": "1"}"#));
        assert!(flux_r(&["encode", "-r0-2", "-Hh0"], "").is_err());
    }

    #[test]
    fn configuration_becomes_a_set() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("a file");
        };
        write("a.toml", "[[resource.config]]\nhosts = \"h[0-1]\"\ncores = \"0-3\"\n");
        write("b.toml", "[other]\nx = 1\n");
        write("c.txt", "not TOML");
        let set = parse_config(dir.path()).expect("valid");
        assert_eq!(set.summary(), "rank[0-1]/core[0-3]");
        assert!(parse_config(&dir.path().join("a.toml")).is_ok());
        assert!(parse_config(&dir.path().join("b.toml")).is_err_and(|e| e.contains("no hosts")));
        assert!(parse_config(&dir.path().join("c.txt")).is_err());
        assert_eq!(
            parse_config(Path::new("/nope")).expect_err("missing"),
            "/nope: No such file or directory"
        );
    }

    #[test]
    fn decode_reads_the_union() {
        let input = [encode_ok(&["-r0", "-c0-3", "-Hh0"]), encode_ok(&["-r1", "-c0-3", "-Hh1"])];
        let decode = |words: &[&str]| flux_r(&[&["decode"], words].concat(), &input.concat());
        assert_eq!(decode(&["--short"]).as_deref(), Ok("rank[0-1]/core[0-3]"));
        assert_eq!(decode(&["-n"]).as_deref(), Ok("h[0-1]"));
        assert_eq!(decode(&["-r"]).as_deref(), Ok("0-1"));
        assert_eq!(decode(&["-c", "core"]).as_deref(), Ok("8"));
        assert_eq!(decode(&["-c", "ranks", "-x0"]).as_deref(), Ok("1"));
        assert_eq!(decode(&["-r", "-i1"]).as_deref(), Ok("1"));
        assert!(decode(&["-c", "x"]).is_err());
        assert!(flux_r(&["decode"], "").is_err());
        assert!(flux_r(&["decode"], "{}").is_err());
    }

    #[test]
    fn sets_are_combined() {
        let all = encode_ok(&["-r0-3", "-Hh[0-3]"]);
        let two = encode_ok(&["-r2-3", "-Hh[2-3]"]);
        let short = |json: Result<String, String>| flux_r(&["decode", "-s"], &json.expect("valid"));
        let both = format!("{all}{two}");
        assert_eq!(short(flux_r(&["diff"], &both)).as_deref(), Ok("rank[0-1]/core0"));
        assert_eq!(short(flux_r(&["intersect"], &both)).as_deref(), Ok("rank[2-3]/core0"));
        assert!(flux_r(&["append"], &both).is_err());
        assert_eq!(short(flux_r(&["remap"], &two)).as_deref(), Ok("rank[0-1]/core0"));
        let reranked = flux_r(&["rerank", "h[3,2]"], &two).expect("valid");
        assert_eq!(flux_r(&["decode", "-n"], &reranked).as_deref(), Ok("h[3,2]"));
        let named = flux_r(&["set-property", "a:0", "b"], &all).expect("valid");
        assert_eq!(flux_r(&["decode", "-r", "-p", "a"], &named).as_deref(), Ok("0"));
        assert_eq!(flux_r(&["verify"], &format!("{all}{all}")).as_deref(), Ok(""));
        assert!(flux_r(&["verify"], &all).is_err());
    }
}
