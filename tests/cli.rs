//! Tests the command-line tool: exit codes, raw bytes, refusals, and a demo that is able to fail.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails its test, and clippy knows only the functions marked as tests"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs the tool in a directory, with `input` on its standard input.
fn run_with(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mapcask"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A tool that does not read its input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Runs the tool and returns its exit code and standard output.
fn run(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run_with(directory, arguments, b"");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let (code, text) = run(directory, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

#[test]
fn compact_command_removes_overwritten_values() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "the old value"]);
    succeed(path, &["put", "a", "new"]);
    let text = succeed(path, &["compact"]);
    assert!(text.starts_with("1 segments removed, 1 made; "), "{text}");
    assert!(succeed(path, &["compact"]).starts_with("nothing to do"));
    assert_eq!(succeed(path, &["get", "a"]), "new");
    let files =
        fs::read_dir(path.join("data")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    assert!(files.into_iter().all(|bytes| !bytes.windows(7).any(|window| window == b"the old")));
}

#[test]
fn put_keys_are_read_scanned_counted_verified_and_deleted() {
    let directory = directory();
    let path = directory.path();
    assert_eq!(succeed(path, &["put", "b", "2"]), "");
    succeed(path, &["put", "a", "1"]);
    succeed(path, &["put", "a\n", "one\tmore"]);
    assert_eq!(succeed(path, &["get", "a"]), "1");
    let scan = |arguments: &[&str]| {
        let text = succeed(path, &[&["scan"], arguments].concat());
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(scan(&["--values"]), ["a\t1", "a\\n\tone\\tmore", "b\t2"]);
    assert_eq!(scan(&["--prefix", "a"]), ["a", "a\\n"]);
    assert_eq!(scan(&["--hex", "--prefix", "62", "--values"]), ["62\t32"]);
    assert_eq!(scan(&["--limit", "2"]).len(), 2);
    assert!(succeed(path, &["verify"]).starts_with("intact: 3 keys"));
    succeed(path, &["del", "a"]);
    assert!(succeed(path, &["stats"]).lines().any(|line| line.split_whitespace().eq(["keys", "2"])));
    assert_eq!(scan(&["--limit", "0"]), [""; 0]);
}

#[test]
fn a_keyspace_holds_its_own_keys_and_is_listed() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "1"]);
    succeed(path, &["put", "--keyspace", "users", "a", "anna"]);
    succeed(path, &["put", "--keyspace", "users", "b", "berta"]);
    succeed(path, &["put", "--keyspace", "a\ttab", "c", ""]);
    assert_eq!(succeed(path, &["get", "a"]), "1");
    assert_eq!(succeed(path, &["get", "--keyspace", "users", "a"]), "anna");
    assert_eq!(run(path, &["get", "b"]), (1, String::new()));
    assert_eq!(succeed(path, &["scan", "--keyspace", "users", "--prefix", "b", "--values"]), "b\tberta\n");
    assert_eq!(succeed(path, &["scan"]), "a\n");
    succeed(path, &["del", "--keyspace", "users", "a"]);
    assert_eq!(run(path, &["del", "--keyspace", "users", "a"]), (1, String::new()));
    assert_eq!(succeed(path, &["get", "a"]), "1");
    let text = succeed(path, &["keyspaces"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let names_and_keys: Vec<_> = lines.iter().map(|line| (line[0], line[1])).collect();
    assert_eq!(names_and_keys, [("\"\"", "1"), ("\"a\\ttab\"", "1"), ("\"users\"", "1")]);
    let live = |line: &Vec<&str>| line[2].parse::<u64>().unwrap();
    assert!(lines.iter().all(|line| line.len() == 4 && live(line) > 0 && line[3] == "unordered"), "{text}");
    let stats = succeed(path, &["stats"]);
    assert!(stats.lines().any(|line| line.split_whitespace().eq(["keyspaces", "3"])), "{stats}");
    assert_eq!(stats.lines().filter(|line| line.starts_with("keyspace ")).count(), 3, "{stats}");
    assert!(stats.contains("\"users\" keys 1 live_bytes "), "{stats}");
}

#[test]
fn scan_of_an_ordered_keyspace_has_bounds_and_both_directions() {
    let directory = directory();
    let path = directory.path();
    for key in ["user/b", "user/a", "zoo", "user/c", "alone", "user"] {
        succeed(path, &["put", "--keyspace", "names", "--ordered", key, "value"]);
    }
    let scan = |arguments: &[&str]| {
        let text = succeed(path, &[&["scan", "--keyspace", "names"], arguments].concat());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = ["alone", "user", "user/a", "user/b", "user/c", "zoo"];
    assert_eq!(scan(&[]), all);
    assert_eq!(scan(&["--reverse", "--limit", "2"]), ["zoo", "user/c"]);
    assert_eq!(scan(&["--from", "user/a", "--to", "user/c"]), all[2..4]);
    assert_eq!(scan(&["--from", "user/aa", "--limit", "1"]), ["user/b"]);
    assert_eq!(scan(&["--to", "user/a", "--reverse"]), ["user", "alone"]);
    assert_eq!(scan(&["--prefix", "user/"]), all[2..5]);
    assert_eq!(scan(&["--prefix", "user/", "--reverse"]), ["user/c", "user/b", "user/a"]);
    // The narrower bound counts.
    assert_eq!(scan(&["--prefix", "user", "--from", "user/b", "--to", "zz"]), all[3..5]);
    assert_eq!(scan(&["--prefix", "user/", "--from", "a", "--to", "user/b"]), ["user/a"]);
    assert_eq!(scan(&["--from", "z", "--to", "a"]), [""; 0]);
    let hex = ["--hex", "--from", "757365722f62", "--to", "757365722f63", "--values"];
    assert_eq!(scan(&hex), ["757365722f62\t76616c7565"]);
    assert!(
        succeed(path, &["keyspaces"])
            .lines()
            .any(|line| line.starts_with("\"names\"\t6\t") && line.ends_with("\tordered"))
    );
    let stats = succeed(path, &["stats"]);
    let ordered = |name: &str, is_ordered: bool| {
        stats.lines().any(|line| line.contains(name) && line.ends_with(&format!(" ordered {is_ordered}")))
    };
    assert!(ordered("\"names\"", true) && ordered("\"\"", false), "{stats}");
}

#[test]
fn a_keyspace_without_order_has_no_bounds() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "--keyspace", "plain", "a", "1"]);
    let refused = |arguments: &[&str], reason: &str| {
        let output = run_with(path, arguments, b"");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(reason), "{message}");
    };
    for bound in [&["--from", "a"][..], &["--to", "b"], &["--reverse"]] {
        refused(&[&["scan", "--keyspace", "plain"], bound].concat(), "\"plain\" is not ordered; --from");
    }
    refused(&["put", "--keyspace", "plain", "--ordered", "a", "2"], "plain");
    assert_eq!(succeed(path, &["get", "--keyspace", "plain", "a"]), "1");
    // A put that is refused creates no store.
    let key = "k".repeat(mapcask::MAX_ORDERED_KEY_LEN + 1);
    let to = ["--store", "new", "--ordered"];
    refused(&[&["put"], &to[..], &["a", "1"]].concat(), "without a name is never ordered");
    refused(&[&["put", "--keyspace", "names"], &to[..], &[&key, "1"]].concat(), "an ordered keyspace takes");
    assert!(!path.join("new").exists());
}

#[test]
fn only_put_creates_a_keyspace() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "1"]);
    for arguments in [&["get", "a"][..], &["del", "a"], &["scan"]] {
        let output = run_with(path, &[arguments, &["--keyspace", "usres"]].concat(), b"");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains("no keyspace \"usres\"") && message.contains("mapcask keyspaces"),
            "{message}"
        );
    }
    assert_eq!(succeed(path, &["keyspaces"]).lines().count(), 1);
    let name = "n".repeat(mapcask::MAX_KEYSPACE_NAME_LEN + 1);
    let output = run_with(path, &["put", "--store", "new", "--keyspace", &name, "a", "1"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("a store takes names of up to"));
    assert!(!path.join("new").exists());
}

#[test]
fn tail_follows_a_store_that_is_written_to() {
    use std::io::{BufRead, BufReader};
    let directory = directory();
    let path = directory.path().join("data");
    let store = mapcask::Store::open(&path).unwrap();
    let mut tail = Command::new(env!("CARGO_BIN_EXE_mapcask"))
        .arg("tail")
        .args(["--from", "now", "--follow"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // The tool may begin after the first of these, so it is written until a line comes.
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| lines.next().unwrap().unwrap());
        while !first.is_finished() {
            store.insert("first", "1").unwrap();
            std::thread::yield_now();
        }
        first.join().unwrap()
    });
    assert!(first.contains("\"first\""), "{first}");
    let seq = store.insert("last", "2").unwrap();
    let last = lines.map(Result::unwrap).find(|line| line.contains("\"last\"")).unwrap();
    assert!(last.contains(&format!("\"seq\":{seq},")), "{last}");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn tail_prints_each_change_as_a_line_of_json() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "1"]);
    succeed(path, &["put", "--keyspace", "users", "\"", "ä"]);
    succeed(path, &["del", "a"]);
    let all = succeed(path, &["tail"]);
    let lines: Vec<serde_json::Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["insert", "created", "insert", "remove"], "{all}");
    assert_eq!((lines[2]["keyspace"].as_str(), lines[2]["key"].as_str()), (Some("users"), Some("\\\"")));
    assert_eq!(lines[2]["value"].as_str(), Some("\\xc3\\xa4"));
    let seq = lines[2]["seq"].to_string();
    assert_eq!(succeed(path, &["tail", "--from", &seq, "--durable"]).lines().count(), 1);
    assert_eq!(succeed(path, &["tail", "--keyspace", "users", "--hex"]).lines().count(), 2);
    let state = succeed(path, &["tail", "--from", "state"]);
    assert!(state.lines().last().unwrap().contains("state_end"), "{state}");
    for key in ["b", "b", "b"] {
        succeed(path, &["put", key, "2"]);
    }
    succeed(path, &["compact"]);
    let (code, text) = run(path, &["tail", "--from", "0"]);
    assert!(code == 1 && text.starts_with("{\"kind\":\"lagged\",\"from\":1,"), "{code}, {text}");
    assert_eq!(run(path, &["tail", "--from", "then"]).0, 2);
}

#[test]
fn put_from_standard_input_keeps_raw_bytes() {
    let directory = directory();
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    assert!(run_with(directory.path(), &["put", "--hex", "00ff", "-"], &bytes).status.success());
    let got = run_with(directory.path(), &["get", "--hex", "00FF"], b"");
    assert!(got.status.success() && got.stdout == bytes);
    assert!(run_with(directory.path(), &["put", "empty"], b"").status.success());
    assert_eq!(succeed(directory.path(), &["get", "empty"]), "");
}

#[test]
fn an_absent_key_is_exit_code_1_and_prints_nothing() {
    let directory = directory();
    succeed(directory.path(), &["put", "--store", "other", "a", "1"]);
    assert_eq!(run(directory.path(), &["get", "--store", "other", "b"]), (1, String::new()));
    assert_eq!(run(directory.path(), &["del", "--store", "other", "b"]), (1, String::new()));
}

#[test]
fn a_command_that_reads_creates_no_store() {
    let directory = directory();
    for arguments in [&["get", "a"][..], &["del", "a"], &["scan"], &["keyspaces"], &["stats"], &["verify"]] {
        let output = run_with(directory.path(), arguments, b"");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(message.contains("no store at") && message.contains("--store DIR"), "{message}");
        assert!(!directory.path().join("data").exists(), "{arguments:?}");
    }
}

#[test]
fn a_foreign_directory_is_refused_and_untouched() {
    let directory = directory();
    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter.txt"), "dear reader").unwrap();
    for arguments in [&["get", "a"][..], &["put", "a", "1"], &["del", "a"], &["verify"]] {
        let output = run_with(directory.path(), &[arguments, &["--store", "foreign"]].concat(), b"");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("is not a mapcask store"), "{message}");
    }
    let output = run_with(directory.path(), &["demo", ".", "--store", "foreign"], b"");
    assert_eq!(output.status.code(), Some(2));
    let names: Vec<_> = fs::read_dir(&foreign).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["letter.txt"]);
    assert_eq!(fs::read(foreign.join("letter.txt")).unwrap(), b"dear reader");
}

#[test]
fn invalid_hexadecimal_is_an_error_with_advice() {
    let directory = directory();
    let output = run_with(directory.path(), &["put", "--hex", "xy", "00"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("leave --hex out"));
}

/// Every command that only reads, with the beginning of what it prints about [`live_store`].
const LOOKS: [(&[&str], &str); 8] = [
    (&["get", "a"], "the last value"),
    (&["get", "--keyspace", "users", "anna"], "admin"),
    (&["scan", "--prefix", "a", "--values"], "a\tthe last value\n"),
    (&["keyspaces"], "\"\"\t91\t"),
    (&["stats"], "writer         open\n"),
    (&["top", "--count", "1", "--interval", "0.01"], "{\"writer\":\"open\","),
    (&["verify"], "intact: 92 keys; "),
    (&["scan", "--keyspace", "users"], "anna\n"),
];

/// Returns a store that is open in this process, with removed and replaced segments.
fn live_store(path: &Path) -> mapcask::Store {
    let store = mapcask::Options::new().segment_bytes(4096).background(false).open(path).unwrap();
    for round in 0..3_u8 {
        for n in 0..90_u8 {
            store.insert([n], [round; 100]).unwrap();
        }
        store.compact().unwrap();
    }
    store.insert("a", "the first value").unwrap();
    store.keyspace("users").unwrap().insert("anna", "admin").unwrap();
    store.flush().unwrap();
    store.insert("a", "the last value").unwrap();
    store
}

/// The name, size, time of the last change and contents of each file.
fn listing(path: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime, Vec<u8>)> {
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files
        .map(|file| {
            let of = fs::metadata(&file).unwrap();
            (file.clone(), of.len(), of.modified().unwrap(), fs::read(&file).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn reading_commands_work_beside_a_writer_and_change_no_file() {
    let directory = directory();
    let path = directory.path().join("data");
    let store = live_store(&path);
    let before = listing(&path);
    for (arguments, expected) in LOOKS {
        let text = succeed(directory.path(), arguments);
        assert!(text.starts_with(expected), "{arguments:?}: {text}");
        assert!(listing(&path) == before, "{arguments:?}");
    }
    assert_eq!(run(directory.path(), &["get", "absent"]), (1, String::new()));
    // A command that writes is refused, and says how to read.
    for arguments in [&["put", "a", "1"][..], &["del", "a"], &["compact"]] {
        let output = run_with(directory.path(), arguments, b"");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let pid = std::process::id();
        assert!(message.contains(&format!("open for writing in process {pid};")), "{message}");
        assert!(message.contains("`Follower::open`"), "{message}");
    }
    // The writer goes on, and the next command sees it.
    store.insert("a", "another value").unwrap();
    assert_eq!(succeed(directory.path(), &["get", "a"]), "another value");
    store.close().unwrap();
    assert!(succeed(directory.path(), &["stats"]).starts_with("writer         closed\n"));
}

#[test]
fn stats_show_how_far_a_live_store_is_durable() {
    let directory = directory();
    let store = live_store(&directory.path().join("data"));
    let row = |name: &str| {
        let text = succeed(directory.path(), &["stats"]);
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(row("durable_seq"), store.durable_seq().0);
    assert_eq!(row("last_seq"), store.last_seq().0);
    assert!(row("durable_seq") < row("last_seq"));
    store.flush().unwrap();
    assert_eq!(row("durable_seq"), store.durable_seq().0);
    assert!(store.durable_seq() >= store.last_seq());
    assert_eq!(row("keys"), 92);
    assert_eq!(row("size_on_disk"), store.size_on_disk().unwrap());
}

#[test]
fn verify_finds_damage_beside_a_writer_and_without_one() {
    for is_open in [true, false] {
        let directory = directory();
        let path = directory.path().join("data");
        let store = live_store(&path);
        let store = if is_open {
            Some(store)
        } else {
            store.close().unwrap();
            None
        };
        assert_eq!(run(directory.path(), &["verify"]).0, 0);
        damage_in_place(&path, b"the last value");
        let output = run_with(directory.path(), &["verify"], b"");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "with a writer: {is_open}: {message}");
        assert!(message.contains(".seg is damaged at offset "), "{message}");
        drop(store);
    }
}

/// Makes a tree of empty, small and large files, in directories of one file and of many.
fn make_tree(root: &Path) -> PathBuf {
    let tree = root.join("tree");
    for folder in 0..12_usize {
        let path = tree.join(format!("folder {folder}")).join("deep");
        fs::create_dir_all(&path).unwrap();
        for file in 0..=folder * 2 {
            let len = if file == 3 { 200_000 + folder } else { file * 997 };
            let content: Vec<u8> =
                (0..len).map(|at| (at * 31 + folder * 7 + file).to_le_bytes()[0]).collect();
            fs::write(path.join(format!("file {file}")), content).unwrap();
        }
    }
    tree
}

#[test]
fn the_demo_survives_kills_and_loses_nothing() {
    let directory = directory();
    make_tree(directory.path());
    let (code, text) =
        run(directory.path(), &["demo", "tree", "--kills", "3", "--store", "kept", "--seed", "1"]);
    assert_eq!(code, 0, "{text}");
    let row = |name: &str| {
        let line =
            text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.split(name).nth(1).unwrap().trim_matches(['│', ' ', '|']).to_owned()
    };
    assert_eq!(row("kills survived"), "3");
    assert_eq!(row("acknowledged "), "144 of 144");
    for name in ["│ lost", "wrong or invented", "batches in part"] {
        let table =
            text.lines().filter(|line| line.starts_with('│')).find(|line| line.contains(name)).unwrap();
        assert!(table.trim_end_matches(['│', ' ']).ends_with(" 0"), "{table}");
    }
    assert_eq!(text.matches("killed after").count(), 3, "{text}");
    // The demo leaves an ordinary store.
    let content = run_with(directory.path(), &["get", "--store", "kept", "folder 7/deep/file 3"], b"").stdout;
    assert_eq!(content, fs::read(directory.path().join("tree/folder 7/deep/file 3")).unwrap());
}

#[test]
fn demo_with_more_kills_than_files_removes_its_store() {
    let directory = directory();
    let tree = directory.path().join("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::create_dir(directory.path().join("target")).unwrap();
    fs::write(tree.join("only"), "content").unwrap();
    succeed(directory.path(), &["demo", "tree", "--kills", "4", "--writers", "3"]);
    assert_eq!(fs::read_dir(directory.path().join("target")).unwrap().count(), 0);
}

#[test]
fn the_demo_fails_when_something_acknowledged_is_missing() {
    let directory = directory();
    make_tree(directory.path());
    let (code, text) =
        run(directory.path(), &["demo", "tree", "--kills", "1", "--pretend", "--store", "kept"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("did not keep its promise") && text.contains("acknowledged and lost"), "{text}");
}

#[test]
fn the_demo_says_what_to_do_without_sources() {
    let directory = directory();
    let output = Command::new(env!("CARGO_BIN_EXE_mapcask"))
        .arg("demo")
        .env("CARGO_HOME", directory.path())
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("name any directory with files: mapcask demo PATH"), "{message}");
}

#[test]
fn the_demo_refuses_a_bad_path_before_it_makes_a_store() {
    let directory = directory();
    let path = directory.path();
    fs::create_dir(path.join("empty")).unwrap();
    fs::write(path.join("file"), "content").unwrap();
    for (tree, reason) in
        [("missing", "cannot find"), ("file", "is no directory"), ("empty", "holds no file")]
    {
        for store in [&[][..], &["--store", "kept"], &["--keep"]] {
            let output = run_with(path, &[&["demo", tree], store].concat(), b"");
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{message}");
            assert!(message.contains(reason) && !message.contains("kept at"), "{message}");
            assert_eq!(fs::read_dir(path).unwrap().count(), 2, "nothing was made for {tree}");
        }
    }
}

#[test]
fn the_demo_removes_what_interrupted_ones_left_and_nothing_else() {
    let directory = directory();
    let path = directory.path();
    fs::create_dir(path.join("tree")).unwrap();
    fs::write(path.join("tree/only"), "content").unwrap();
    let mut ended =
        Command::new(env!("CARGO_BIN_EXE_mapcask")).arg("--version").stdout(Stdio::null()).spawn().unwrap();
    let gone = ended.id();
    ended.wait().unwrap();
    let leftover = format!("mapcask-demo-{gone}");
    let others = [
        format!("mapcask-demo-{}", std::process::id()),
        format!("mapcask-kept-{gone}"),
        "mapcask-demo-x".into(),
    ];
    for name in others.iter().chain([&leftover]) {
        fs::create_dir(path.join(name)).unwrap();
        fs::write(path.join(name).join("file"), "content").unwrap();
    }
    let text = succeed(path, &["demo", "tree", "--kills", "1"]);
    assert!(text.contains("removed at the end; an interrupted demo leaves it"), "{text}");
    assert!(text.contains(&leftover) && !path.join(&leftover).exists(), "{text}");
    for name in &others {
        assert!(path.join(name).join("file").exists(), "{name}");
    }
    assert_eq!(fs::read_dir(path).unwrap().count(), 1 + others.len());
    // A kept store outlives the next demo.
    succeed(path, &["demo", "tree", "--kills", "0", "--keep"]);
    succeed(path, &["demo", "tree", "--kills", "0"]);
    assert_eq!(fs::read_dir(path).unwrap().count(), 2 + others.len());
}

#[test]
fn a_key_that_is_too_large_creates_no_store() {
    let directory = directory();
    let key = "k".repeat(mapcask::MAX_KEY_LEN + 1);
    let output = run_with(directory.path(), &["put", &key, "value"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("a store takes keys of up to"));
    assert!(!directory.path().join("data").exists());
}

/// Flips a bit in the middle of `text`, in the segment that holds it.
fn damage(store: &Path, text: &[u8]) {
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(text.len()).position(|window| window == text);
        if let Some(at) = found {
            bytes[at + text.len() / 2] ^= 1;
            fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("no file of the store holds the text");
}

/// Flips a bit as [`damage`] does, in a file that a process may have mapped.
fn damage_in_place(store: &Path, text: &[u8]) {
    use std::os::unix::fs::FileExt;
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("no file of the store holds the text");
}

#[test]
fn salvage_command_recovers_undamaged_keys_of_a_refused_store() {
    let directory = directory();
    let path = directory.path();
    for (key, value) in [("a", "the first value"), ("b", "the second value"), ("c", "the third value")] {
        succeed(path, &["put", key, value]);
    }
    succeed(path, &["put", "--keyspace", "users", "anna", "a value in a keyspace"]);
    damage(&path.join("data"), b"the second value");
    let output = run_with(path, &["get", "a"], b"");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("mapcask salvage data NEW"), "{message}");
    let (code, text) = run(path, &["salvage", "data", "new"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.lines().any(|line| line.contains(".seg, offset ")), "{text}");
    let keyspaces: Vec<_> = text.lines().filter(|line| line.starts_with("keyspace ")).collect();
    assert_eq!(keyspaces, ["keyspace \"\", the one without a name", "keyspace \"users\""]);
    assert_eq!(
        succeed(path, &["get", "--store", "new", "--keyspace", "users", "anna"]),
        "a value in a keyspace"
    );
    assert_eq!(succeed(path, &["get", "--store", "new", "a"]), "the first value");
    assert_eq!(run(path, &["get", "--store", "new", "b"]), (1, String::new()));
    assert_eq!(succeed(path, &["get", "--store", "new", "c"]), "the third value");
    // The salvaged store has no damage.
    assert_eq!(run(path, &["salvage", "new", "newer"]).0, 0);
}

#[test]
fn salvage_command_accepts_an_unfinished_target_but_no_used_one() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "1"]);
    // A killed salvage leaves its mark and some of the recovered keys.
    let unfinished = mapcask::Store::open(path.join("new")).unwrap();
    unfinished.keyspace(mapcask::SALVAGE_UNFINISHED).unwrap().insert("from", "data").unwrap();
    unfinished.close().unwrap();
    assert_eq!(run(path, &["salvage", "data", "new"]).0, 0);
    assert_eq!(succeed(path, &["get", "--store", "new", "a"]), "1");
    assert_eq!(succeed(path, &["keyspaces", "--store", "new"]).lines().count(), 1);
    // The salvage is finished now, so the target is a store in use.
    assert_eq!(run(path, &["salvage", "data", "new"]).0, 2);
    // This target is from a salvage that was killed before it made its mark.
    mapcask::Store::open(path.join("empty")).unwrap().close().unwrap();
    assert_eq!(run(path, &["salvage", "data", "empty"]).0, 0);
    assert_eq!(succeed(path, &["get", "--store", "empty", "a"]), "1");
}

#[test]
fn a_salvage_that_is_refused_makes_no_store() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "1"]);
    fs::create_dir(path.join("foreign")).unwrap();
    for arguments in
        [["salvage", "missing", "new"], ["salvage", "foreign", "new"], ["salvage", "data", "data"]]
    {
        assert_eq!(run(path, &arguments).0, 2, "{arguments:?}");
        assert!(!path.join("new").exists(), "{arguments:?}");
    }
    assert_eq!(succeed(path, &["get", "a"]), "1");
}

#[test]
fn a_value_may_begin_with_a_hyphen() {
    let directory = directory();
    succeed(directory.path(), &["put", "a", "-5"]);
    assert_eq!(succeed(directory.path(), &["get", "a"]), "-5");
    succeed(directory.path(), &["put", "--hex", "61", "2d"]);
    assert_eq!(succeed(directory.path(), &["get", "a"]), "-");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_named() {
    let directory = directory();
    succeed(directory.path(), &["put", "a", "1"]);
    let output = Command::new(env!("CARGO_BIN_EXE_mapcask"))
        .args(["stats"])
        .current_dir(directory.path())
        .stdout(fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot write to standard output"), "{text}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_backup_of_the_tool_is_restored_to_a_store() {
    let directory = directory();
    let path = directory.path();
    succeed(path, &["put", "a", "1"]);
    // Another process may have the store open for writing.
    let store = mapcask::Store::open(path.join("data")).unwrap();
    let text = succeed(path, &["backup", "data", "copy"]);
    assert!(text.starts_with("1 files, ") && text.contains("; 1 copied, "), "{text}");
    assert!(succeed(path, &["backup", "data", "copy"]).contains("; 0 copied, 0 B; 0 old ones removed;"));
    store.insert("a", "2").unwrap();
    let text = succeed(path, &["restore", "copy", "new"]);
    assert!(text.starts_with("1 files, ") && text.contains("last sequence number "), "{text}");
    assert_eq!(succeed(path, &["get", "a", "--store", "new"]), "1");
    for refused in [["restore", "copy", "new"], ["restore", "data", "other"], ["backup", "new", "copy"]] {
        assert_eq!(run(path, &refused).0, 2, "{refused:?}");
    }
    for refused in
        [["backup", "none", "other"], ["backup", "data", "data/copy"], ["restore", "none", "other"]]
    {
        assert_eq!(run(path, &refused).0, 2, "{refused:?}");
    }
    assert!(!path.join("other").exists() && !path.join("data/copy").exists());
}
