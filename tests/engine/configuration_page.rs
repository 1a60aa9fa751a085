//! The tables of `configuration.md` are printed from the table of keys, and may not differ.
//!
//! `UPDATE_DOCS=1` writes them. The prose around them is the page's own.

use std::path::Path;

use unanimity::config::page_table;

const BEGIN: &str = "<!-- keys -->\n";
const END: &str = "<!-- end of keys -->\n";

#[test]
fn the_page_has_the_keys_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/configuration.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page says where the keys begin");
    let (_, after) = rest.split_once(END).expect("the page says where the keys end");
    let printed = format!("{before}{BEGIN}\n{}\n{END}{after}", page_table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &printed).expect("the page can be written");
    } else {
        assert!(page == printed, "configuration.md differs from the keys; run `make docs`");
    }
}
