//! The rows about the ends of a process: opening after a close and after a kill, lost writes, and
//! the space on the disk.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::engine::{Contender, Survives};
use crate::rounds::{Table, median, number};
use crate::workload::{key, value, value_pool};
use crate::{Lab, Result};

/// Measures an open to the first value, and counts the acknowledged puts that a kill loses.
pub(crate) fn open(lab: &Lab) -> Result<Vec<Table>> {
    let headers = &["", "after a close, ms", "after a kill, ms", "puts that the kill lost"];
    let mut table = Table::new("open to the first value, page cache warm", headers);
    for contender in lab.contenders().filter(|contender| contender.is_store()) {
        let (mut closed, mut killed, mut lost) = (Vec::new(), Vec::new(), 0);
        for _ in 0..lab.rounds {
            let directory = lab.directory()?;
            run(&contender, lab.keys, directory.path(), "close")?;
            closed.push(measure(&contender, lab.keys, directory.path())?.0);
            let directory = lab.directory()?;
            run(&contender, lab.keys, directory.path(), "kill")?;
            let (time, found) = measure(&contender, lab.keys, directory.path())?;
            killed.push(time);
            lost = lost.max(lab.keys - found);
        }
        table.row([
            contender.name.to_owned(),
            number(median(&mut closed)),
            number(median(&mut killed)),
            lost.to_string(),
        ]);
    }
    Ok(vec![table.note(
        "Each open is the first act of a new process. The greatest loss of all rounds. The killed process was at an \
         end of its last put.",
    )])
}

/// Measures an open after a kill to the first value, by the number of keys.
pub(crate) fn open_by_keys(lab: &Lab) -> Result<Vec<Table>> {
    let mut counts = [lab.keys / 100, lab.keys / 10, lab.keys].map(|keys| keys.max(1000)).to_vec();
    counts.dedup();
    let mut titles = vec!["keys"];
    let stores: Vec<_> = lab.contenders().filter(Contender::is_store).collect();
    titles.extend(stores.iter().map(|contender| contender.name));
    let title =
        "open after a kill to the first value, page cache warm, in milliseconds, by the number of keys";
    let mut table = Table::new(title, &titles);
    for keys in counts {
        let mut cells = vec![keys.to_string()];
        for contender in &stores {
            let mut times = Vec::new();
            for _ in 0..lab.rounds {
                let directory = lab.directory()?;
                run(contender, keys, directory.path(), "kill")?;
                times.push(measure(contender, keys, directory.path())?.0);
            }
            cells.push(number(median(&mut times)));
        }
        table.row(cells);
    }
    Ok(vec![table])
}

/// Opens a store in another process and reads one key. Returns the milliseconds, and the number of
/// keys that are there.
fn measure(contender: &Contender, keys: usize, directory: &Path) -> Result<(f64, usize)> {
    let told = run(contender, keys, directory, "open")?;
    let (time, found) = told.trim().split_once(' ').ok_or("the child tells two numbers")?;
    Ok((time.parse()?, found.parse()?))
}

/// Opens a store, reads one key, and counts the keys that are there.
fn open_child(contender: &Contender, keys: usize, directory: &Path) -> Result<()> {
    let began = Instant::now();
    let engine = contender.open(directory, Survives::Kill)?;
    engine.get(&key(keys as u64 / 2), &mut |_| {})?;
    let millis = began.elapsed().as_secs_f64() * 1e3;
    let mut found = 0;
    for number in 0..keys {
        found += usize::from(engine.get(&key(number as u64), &mut |_| {})?);
    }
    println!("{millis} {found}");
    engine.close()
}

/// Fills a contender in another process, which then closes it or dies, or opens it there. Returns
/// the text that the process printed.
pub(crate) fn run(contender: &Contender, keys: usize, directory: &Path, end: &str) -> Result<String> {
    spawn("--child", contender.name, keys, directory, end)
}

/// Runs this program as a child that uses the store in a directory, and returns the text that it printed.
pub(crate) fn spawn(kind: &str, name: &str, keys: usize, directory: &Path, end: &str) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?);
    child.args([kind, name, &keys.to_string(), end]).arg(directory.join("store"));
    let output = child.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let status = output.status;
    if status.code() == Some(0) || (end == "kill" && status.code().is_none()) {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{name}: its process failed: {status}").into())
}

/// Runs a child: `NAME KEYS close|kill|memory|open DIR`. All but the last fill the store. With `memory`
/// it prints the bytes of anonymous memory that it gained.
pub(crate) fn child(arguments: &[String]) -> Result<()> {
    let [name, keys, end, directory] = arguments else { return Err("not a child's arguments".into()) };
    let contender = crate::engine::contenders().into_iter().find(|contender| contender.name == *name);
    let contender = contender.ok_or_else(|| format!("no contender is called {name}"))?;
    let keys = keys.parse()?;
    if end == "open" {
        return open_child(&contender, keys, Path::new(directory));
    }
    let pool = value_pool();
    let before = crate::memory::anonymous()?;
    let engine = contender.open(Path::new(directory), Survives::Kill)?;
    for number in 0..keys {
        engine.put(&key(number as u64), value(&pool, number, 0))?;
    }
    if end == "memory" {
        println!("{}", crate::memory::anonymous()?.saturating_sub(before));
    }
    if end == "kill" {
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL)?;
    }
    engine.close()
}

/// Measures the space on the disk as a multiple of all keys and values.
pub(crate) fn space(lab: &Lab) -> Result<Vec<Table>> {
    let live = lab.keys * (crate::workload::KEY_LEN + crate::workload::VALUE_LEN);
    let mut table = Table::new(
        "disk space after a close; 1 is all keys and values",
        &["", "loaded", "all overwritten once"],
    );
    for contender in lab.contenders().filter(|contender| contender.is_store()) {
        let directory = lab.directory()?;
        let path = directory.path().join("store");
        let mut cells = vec![contender.name.to_owned()];
        for version in 0..2 {
            let engine = contender.open(&path, Survives::Kill)?;
            for at in &lab.workload.order {
                engine.put(&lab.workload.keys[*at], lab.workload.value(*at, version))?;
            }
            engine.close()?;
            cells.push(number(blocks(&path)? as f64 / live as f64));
        }
        table.row(cells);
    }
    Ok(vec![table])
}

/// Returns the bytes of the blocks of all files below a path. A file may go meanwhile.
pub(crate) fn blocks(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        metadata => metadata?,
    };
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            bytes += blocks(&entry?.path())?;
        }
    }
    Ok(bytes)
}
