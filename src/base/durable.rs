//! What makes local files last: a file that was synced is still lost in a power failure if a
//! directory that leads to it was not.

use std::fs::File;
use std::io;
use std::path::Path;

/// Syncs a file or a directory to its disk.
///
/// # Errors
/// Those of the operating system: it cannot be opened, or not be written.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directories whose entries lead to `file`: its own, and those above it up to `top`.
pub(crate) fn leading_directories<'a>(
    file: &'a Path,
    top: &'a Path,
) -> impl Iterator<Item = &'a Path> {
    let mut next = file.parent();
    std::iter::from_fn(move || {
        let directory = next?;
        let below = directory.starts_with(top) && directory != top;
        next = directory.parent().filter(|_| below);
        Some(directory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_that_lead_to_a_file_end_at_the_top() {
        let found = |file, top| -> Vec<String> {
            let directories = leading_directories(Path::new(file), Path::new(top));
            directories.map(|directory| directory.display().to_string()).collect()
        };
        assert_eq!(found("/w/t/data/a=1/f", "/w/t"), ["/w/t/data/a=1", "/w/t/data", "/w/t"]);
        assert_eq!(found("/w/t/f", "/w/t/"), ["/w/t"]);
        assert_eq!(found("/elsewhere/a/f", "/w/t"), ["/elsewhere/a"], "its own in any case");
        assert_eq!(found("/f", "/"), ["/"]);
    }

    #[test]
    fn what_is_not_there_cannot_be_synced() {
        let dir = tempfile::tempdir().unwrap();
        sync(dir.path()).unwrap();
        assert_eq!(sync(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
