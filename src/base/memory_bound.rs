//! How much memory the system lets this process have.

use std::path::Path;

/// A limit of version 1 that is as large is none.
const NONE: u64 = 1 << 60;

/// Bytes that the control groups of this process allow, the tightest of its own and those above it.
/// `None` where there is no limit, or none that can be read.
pub(crate) fn of_control_group() -> Option<u64> {
    of(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
}

/// `groups` tells the process' groups, below `root` they are.
fn of(groups: &Path, root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(groups).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if number == "0" && controllers.is_empty() {
            // Where version 1 is in use, version 2 has a place of its own, mostly without memory.
            let bases = [root.to_owned(), root.join("unified")];
            return bases.iter().filter_map(|base| tightest(base, path, "memory.max")).min();
        }
        let memory = controllers.split(',').any(|name| name == "memory");
        memory.then(|| tightest(&root.join("memory"), path, "memory.limit_in_bytes"))?
    });
    limits.min()
}

/// In a container the path may be that of the host, of which nothing is here: what is here is the
/// container's own then.
fn tightest(base: &Path, path: &str, file: &str) -> Option<u64> {
    let own = base.join(path.trim_start_matches('/'));
    let up = own.ancestors().take_while(|dir| dir.starts_with(base));
    let limits = up.filter_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
    // Version 2 says `max` where there is none.
    limits.filter_map(|text| text.trim().parse().ok()).filter(|limit| *limit < NONE).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read where the files are these.
    fn read(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("groups");
        std::fs::write(&list, groups).unwrap();
        for (path, text) in files {
            let path = dir.path().join("root").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        of(&list, &dir.path().join("root"))
    }

    #[test]
    fn the_tightest_group_of_version_2_on_the_way_up_counts() {
        let files = [
            ("memory.max", "max\n"),
            ("kube/memory.max", "536870912\n"),
            ("kube/pod/memory.max", "1073741824\n"),
            ("kube/pod/c/memory.max", "max\n"),
            ("other/memory.max", "1\n"),
        ];
        assert_eq!(read("0::/kube/pod/c\n", &files), Some(512 << 20));
        assert_eq!(read("0::/kube/pod/c/gone/as/well\n", &files), Some(512 << 20));
        assert_eq!(read("0::/\n", &files), None);
    }

    #[test]
    fn a_container_sees_its_own_limit_at_the_root() {
        let two = [("memory.max", "268435456\n")];
        assert_eq!(read("0::/\n", &two), Some(256 << 20));
        assert_eq!(read("0::/docker/0123abc\n", &two), Some(256 << 20));
        let one = [("memory/memory.limit_in_bytes", "268435456\n")];
        assert_eq!(read("4:memory:/docker/0123abc\n0::/\n", &one), Some(256 << 20));
    }

    #[test]
    fn the_groups_of_version_1_are_found_beside_other_controllers() {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/b/memory.limit_in_bytes", "134217728\n"),
            ("cpu/a/b/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(read("8:cpu:/a/b\n4:memory,hugetlb:/a/b\n0::/\n", &files), Some(128 << 20));
        assert_eq!(read("4:memory:/\n", &files), None);
    }

    #[test]
    fn no_limit_is_read_where_there_are_no_groups() {
        assert_eq!(read("", &[]), None);
        assert_eq!(read("nonsense\n:\n0::\n", &[]), None);
        assert_eq!(of(Path::new("/no/such"), Path::new("/no/such")), None);
    }
}
