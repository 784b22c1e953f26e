//! The disk in memory forgets and fails as promised.

use super::*;

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn content(disk: &MemoryDisk, at: &str) -> Option<Vec<u8>> {
    let file = disk.open(path(at)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn unsynced_bytes_and_names_are_lost() {
    let disk = MemoryDisk::new();
    disk.create_dir(path("d")).unwrap();
    disk.sync_dir(path("")).unwrap();
    let file = disk.create(path("d/a")).unwrap();
    file.write_all_at(0, b"one").unwrap();
    file.sync().unwrap();
    assert_eq!(content(&disk.after_power_loss(Loss::All), "d/a"), None, "the name was not synced");
    disk.sync_dir(path("d")).unwrap();
    file.write_all_at(0, b"two").unwrap();
    file.write_all_at(3, b"!").unwrap();
    assert_eq!(content(&disk, "d/a").unwrap(), b"two!");
    assert_eq!(content(&disk.after_power_loss(Loss::All), "d/a").unwrap(), b"one");
    assert_eq!(content(&disk.after_kill(), "d/a").unwrap(), b"two!");
    disk.rename(path("d/a"), path("b")).unwrap();
    let rebooted = disk.after_power_loss(Loss::All);
    assert_eq!((content(&rebooted, "b"), content(&rebooted, "d/a").unwrap()), (None, b"one".to_vec()));
    disk.sync_dir(path("")).unwrap();
    assert_eq!(content(&disk.after_power_loss(Loss::All), "b").unwrap(), b"one");

    let survivors: HashSet<_> =
        (0..40).map(|seed| content(&disk.after_power_loss(Loss::Some(seed)), "b").unwrap()).collect();
    assert_eq!(survivors.len(), 4, "each of two writes survives or not: {survivors:?}");
}

#[test]
fn calls_fail_as_told() {
    let disk = MemoryDisk::new();
    let file = disk.create(path("a")).unwrap();
    disk.fail_call(2);
    file.write_all_at(0, b"x").unwrap();
    assert!(file.write_all_at(0, b"y").is_err());
    file.sync().unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"x");
    disk.power_off_at(1);
    assert!(file.write_all_at(0, b"z").is_err() && file.sync().is_err());
    disk.heal();
    assert_eq!(content(&disk, "a").unwrap(), b"x");
}

#[test]
fn a_full_disk_takes_overwrites_only_and_holes_are_free() {
    let disk = MemoryDisk::new();
    disk.set_capacity(Some(8192));
    let file = disk.create(path("a")).unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(disk.allocated(), 0);
    file.write_all_at(4096, &[1; 8192]).unwrap();
    let error = file.write_all_at(0, &[1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.write_all_at(5000, &[2; 100]).unwrap();
    assert!(
        file.read_exact_at((1 << 20) - 1, &mut [0; 2])
            .is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
    );
}

#[test]
fn one_lock_at_a_time() {
    let disk = MemoryDisk::new();
    let lock = disk.lock(path("lock")).unwrap();
    assert!(lock.is_some());
    assert!(disk.lock(path("lock")).unwrap().is_none());
    drop(lock);
    assert!(disk.lock(path("lock")).unwrap().is_some());
}
