//! `resource.exclude`, and whether the R of a file fits the configuration that names it.

use flux_id::{Hostlist, Idset};
use serde_json::{Map, Value};

use super::ResourceSet;
use crate::roster::Roster;

impl ResourceSet {
    /// Ranks that the text of `resource.exclude` names, in an instance of so many brokers on these
    /// hosts. A host may be without resources.
    ///
    /// # Errors
    /// The sentence to show: it is neither an idset nor a list of hosts, or names a host or rank
    /// that there is not.
    pub fn excluded_by(&self, text: &str, size: u32, hosts: &[String]) -> Result<Idset, String> {
        let wrong = |error: String| format!("resource.exclude '{text}': {error}");
        let ranks = match text.parse::<Idset>() {
            // A rank may be without resources; one that does not exist is a mistake.
            Ok(ranks) => {
                if let Some(rank) = ranks.ids().find(|rank| *rank >= size) {
                    return Err(wrong(format!("rank {rank} is not in this instance of {size}")));
                }
                ranks
            }
            Err(_) => {
                let named: Hostlist = text.parse().map_err(|error| wrong(format!("{error}")))?;
                let bare = |name: &String| {
                    !hosts.contains(name) || self.iter().any(|(_, host, _)| host == name.as_str())
                };
                let named: Vec<String> = named.iter().filter(bare).collect();
                let named =
                    Hostlist::from_hosts(&named).map_err(|error| wrong(error.to_string()))?;
                self.ranks_of(&named).map_err(|error| wrong(error.to_string()))?
            }
        };
        Ok(ranks.intersection(&self.ranks()))
    }

    /// Checks the content of the file `resource.path` against the configuration: it is R, has a
    /// place for each of its hosts in `bootstrap.hosts`, and what is excluded is there.
    ///
    /// # Errors
    /// The sentence to show, without the name of the file.
    pub fn check_configured(r: &Value, config: &Map<String, Value>) -> Result<(), String> {
        let mut set = ResourceSet::from_value(r).map_err(|error| error.to_string())?;
        // A list of hosts that is none is told by who reads it.
        let Ok(Some(roster)) = Roster::of(config) else { return Ok(()) };
        let hosts = Hostlist::from_hosts(&roster.names).map_err(|error| error.to_string())?;
        set = set.rerank(&hosts).map_err(|error| format!("error reranking R: {error}"))?;
        let exclude = config.get("resource").and_then(|table| table.get("exclude"));
        match exclude.and_then(Value::as_str) {
            Some(text) => set.excluded_by(text, roster.size(), &roster.names).map(drop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn r(hosts: &str) -> ResourceSet {
        let hosts: Hostlist = hosts.parse().unwrap();
        let count = u32::try_from(hosts.iter().count()).unwrap();
        let cores = "0-1".parse().unwrap();
        ResourceSet::encode(&Idset::first_n(count), &cores, &Idset::new(), &hosts).unwrap()
    }

    #[test]
    fn what_is_excluded_is_named_by_rank_or_host() {
        let names: Vec<String> = ["n0", "n1", "n2"].map(str::to_string).to_vec();
        let set = r("n[0-1]");
        for (text, ranks) in [("0", "0"), ("n1", "1"), ("n[0-2]", "0-1"), ("2", ""), ("", "")] {
            assert_eq!(set.excluded_by(text, 3, &names).unwrap().to_string(), ranks, "{text}");
        }
        for (text, why) in [("3", "rank 3 is not in"), ("m0", "m0"), ("n[", "resource.exclude")] {
            let error = set.excluded_by(text, 3, &names).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_file_must_fit_the_hosts_and_what_is_excluded() {
        let config = |exclude: &str| {
            let hosts = json!([{"host": "n[0-1]"}]);
            json!({"bootstrap": {"hosts": hosts}, "resource": {"exclude": exclude}})
        };
        let check = |r: &Value, config: &Value| {
            ResourceSet::check_configured(r, config.as_object().unwrap())
        };
        let good = r("n[0-1]").to_value();
        check(&good, &config("n0")).unwrap();
        check(&good, &json!({})).unwrap();
        let error = check(&r("n[0-2]").to_value(), &config("n0")).unwrap_err();
        assert!(error.starts_with("error reranking R: "), "{error}");
        assert!(check(&good, &config("n7")).unwrap_err().contains("resource.exclude 'n7'"));
        assert!(check(&json!({"version": 1}), &json!({})).is_err());
    }
}
