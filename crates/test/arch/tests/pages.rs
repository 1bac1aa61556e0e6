//! The reference pages in `docs/reference` are those that the code makes.

use flux_arch::{reference, workspace};

fn golden(name: &str, page: &str) {
    let path = workspace::root().join("docs/reference").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, page).expect("docs/reference is there to be written");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "{} is not what the code says: see CONTRIBUTING.md", path.display());
}

#[test]
fn the_rpc_page_is_fresh() {
    golden("rpc.md", &reference::rpc_page());
}

#[test]
fn the_attribute_page_is_fresh() {
    golden("attributes.md", &reference::attribute_page());
}

#[test]
fn the_configuration_page_is_fresh() {
    golden("config.md", &reference::config_page());
}
