//! Writes what pages take from sources anew (`make fix`): the code map, and the tests of each promise. The rules themselves
//! run as tests and write nothing.

use std::path::Path;
use std::{fs, io};

use steersman_tidy::tree::Tree;
use steersman_tidy::{map, promises};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let tree = Tree::load(root)?;
    refresh(root, map::PAGE, |page| map::refreshed(&tree, page))?;
    refresh(root, promises::PAGE, |page| promises::refreshed(&tree, page))
}

fn refresh(root: &Path, page: &str, made: impl Fn(&str) -> String) -> io::Result<()> {
    let path = root.join(page);
    let old = fs::read_to_string(&path)?;
    let new = made(&old);
    if new != old {
        fs::write(&path, new)?;
        println!("{page} is up to date again");
    }
    Ok(())
}
