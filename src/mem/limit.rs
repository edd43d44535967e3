//! The memory that this process may use: that of the machine, or of its control groups.

use std::path::Path;

use crate::sync::lazy_number::LazyNumber;

/// Returns the bytes of memory that this process may use, page cache included; `u64::MAX` if that is
/// not known. A change of the limit is not noticed.
pub(crate) fn memory_limit() -> u64 {
    static LIMIT: LazyNumber = LazyNumber::new();
    LIMIT.get_or(|| {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        limit_of_groups(Path::new("/sys/fs/cgroup"), &groups).min(super::physical_memory())
    })
}

/// Returns the least limit of the control groups that the lines of `/proc/self/cgroup` name;
/// `u64::MAX` if there is none.
fn limit_of_groups(root: &Path, groups: &str) -> u64 {
    let mut least = u64::MAX;
    for line in groups.lines() {
        // A line is `number:controllers:path`. The second version of control groups has no
        // controllers there.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        // A limit holds for all groups below. In a container the path may be one of the host.
        let group = root.join(path.trim_start_matches('/'));
        for group in group.ancestors().take_while(|group| group.starts_with(&root)) {
            let limit = std::fs::read_to_string(group.join(file)).ok();
            let bytes = limit.and_then(|text| text.trim().parse().ok());
            least = least.min(bytes.unwrap_or(u64::MAX));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_limit_of_all_groups_above_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let limit = |path: &str, file: &str, text: &str| {
            let group = root.path().join(path);
            std::fs::create_dir_all(&group).expect("it may be made");
            std::fs::write(group.join(file), text).expect("it may be written");
        };
        let of = |groups: &str| limit_of_groups(root.path(), groups);
        assert_eq!(of("0::/\n"), u64::MAX);
        limit("a/b", "memory.max", "max\n");
        limit("a", "memory.max", "5000\n");
        assert_eq!(of("0::/a/b\n"), 5000);
        limit("a/b", "memory.max", "3000\n");
        assert_eq!(of("0::/a/b\n"), 3000);
        assert_eq!(of("0::/a\n"), 5000);
        assert_eq!(of("0::/unknown\n"), u64::MAX);
        limit("memory/c", "memory.limit_in_bytes", "4000\n");
        assert_eq!(of("3:cpu,memory:/c\n1:cpu:/a\n"), 4000);
        assert_eq!(of("1:cpu:/c\n"), u64::MAX);
        assert_eq!(of("3:memory:/c\n0::/a\nnonsense\n"), 4000);
    }

    #[test]
    fn machine_has_memory() {
        assert!(memory_limit() >= 1 << 20);
    }
}
