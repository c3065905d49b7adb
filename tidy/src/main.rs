//! Writes the code map of ARCHITECTURE.md anew (`make fix`). The rules themselves run as tests and write nothing.

use std::path::Path;
use std::{fs, io};

use steersman_tidy::map;
use steersman_tidy::tree::Tree;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let page = root.join(map::PAGE);
    let old = fs::read_to_string(&page)?;
    let new = map::refreshed(&Tree::load(root)?, &old);
    if new != old {
        fs::write(&page, new)?;
        println!("{} is up to date again", map::PAGE);
    }
    Ok(())
}
