//! The tables of `metrics.md` are printed from the table of metrics, and may not differ.
//!
//! `UPDATE_DOCS=1` writes them. The prose around them is the page's own.

use std::path::Path;

use unanimity::observe::metrics::page_table;

const BEGIN: &str = "<!-- metrics -->\n";
const END: &str = "<!-- end of metrics -->\n";

#[test]
fn the_page_has_the_metrics_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page says where the metrics begin");
    let (_, after) = rest.split_once(END).expect("the page says where the metrics end");
    let printed = format!("{before}{BEGIN}\n{}\n{END}{after}", page_table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &printed).expect("the page can be written");
    } else {
        assert!(page == printed, "metrics.md differs from the metrics; run `make docs`");
    }
}
