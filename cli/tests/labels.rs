//! `selvedge labels import` against a fleet manager.

mod support;

use std::fs;

use support::Desk;

#[test]
fn a_table_of_labels_is_kept_and_what_is_wrong_in_it_is_named_by_row() {
    let desk = Desk::new();
    desk.succeeds(&["keys", "new", "keys"]);
    let fleet = desk.fleet("keys");
    fs::write(desk.path("rows.csv"), "a\n1\n").expect("writable");
    let add = ["device", "add", "line-1", "--replay", "rows.csv", "--out", "line-1"];
    desk.succeeds(&[&add[..], &["--fleet-url", &fleet.url]].concat());
    let import = ["labels", "import", "labels.csv", "--fleet-url", &fleet.url];

    let write = |text: &str| fs::write(desk.path("labels.csv"), text).expect("writable");
    write("id,class,slice\nline-1/1/replay/0,high,day\nline-1/1/replay/1,low,\n");
    let said = desk.succeeds(&import);
    assert!(
        said.contains("2 labels are kept, the answers of 0 are known; 0 are refused"),
        "{said}"
    );
    write("id,class\nline-1/1/replay/0,high\nline-9/1/replay/0,high\n");
    let said = desk.fails(&import);
    assert!(said.contains("row 2: there is no device line-9"), "{said}");
    write("id\nline-1/1/replay/0\n");
    let said = desk.fails(&import);
    assert!(said.contains("row 1: the label lacks class, or value"), "{said}");
}
