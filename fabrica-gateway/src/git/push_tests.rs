use super::*;

const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "2222222222222222222222222222222222222222";
const ZERO: &str = "0000000000000000000000000000000000000000";
const SESSION: &str = "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4";

fn allowed() -> Allowed {
    Allowed::new("fabrica/018f4e1c", Some("main"), SESSION.parse().unwrap())
}

/// A push as git sends it, followed by the beginning of a pack.
fn push(lines: &[String], capabilities: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let line = if index == 0 {
            format!("{line}\0 {capabilities}")
        } else {
            line.clone()
        };
        packet::write(&mut bytes, line.as_bytes());
    }
    bytes.extend_from_slice(b"0000PACK");
    bytes
}

fn update(name: &str) -> String {
    format!("{OLD} {NEW} {name}")
}

fn check(lines: &[String], capabilities: &str) -> Result<(), Reason> {
    let (request, _) = PushRequest::read(&push(lines, capabilities)).unwrap().unwrap();
    allowed().check(&request)
}

fn code(lines: &[String]) -> &'static str {
    check(lines, "report-status").unwrap_err().code
}

#[test]
fn the_sessions_own_branch_and_checkpoints_pass() {
    let usual = "report-status-v2 side-band-64k quiet atomic object-format=sha1 agent=git/2.47.3";
    let branch = "refs/heads/fabrica/018f4e1c";
    assert_eq!(check(&[update(branch)], usual), Ok(()));
    assert_eq!(check(&[format!("{ZERO} {NEW} {branch}")], usual), Ok(()));
    assert_eq!(
        check(
            &[
                update(branch),
                update(&format!("refs/fabrica/{SESSION}/checkpoint"))
            ],
            usual
        ),
        Ok(())
    );
}

#[test]
fn every_other_ref_is_refused() {
    let others = [
        "refs/heads/main",
        "refs/heads/fabrica/018f4e1c2",
        "refs/heads/fabrica/018f4e1c ",
        "refs/heads/fabrica/018F4E1C",
        "refs/heads/fabrica/018f4e1c/x",
        "refs/heads/fabrica/018f4e1c/../main",
        "refs/heads//fabrica/018f4e1c",
        "heads/fabrica/018f4e1c",
        "fabrica/018f4e1c",
        "refs/tags/v1",
        "refs/notes/commits",
        "refs/pull/1/head",
        "HEAD",
        "refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b5/checkpoint",
        "refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4/",
        "refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4/../../heads/main",
        "refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4//x",
        "refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4/.x",
        "refs/fabrica/018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4/x.lock",
    ];
    for name in others {
        assert_eq!(code(&[update(name)]), "push.ref_refused", "{name}");
    }
}

#[test]
fn one_foreign_ref_refuses_the_whole_push_wherever_it_stands() {
    let (own, foreign) = (update("refs/heads/fabrica/018f4e1c"), update("refs/heads/main"));
    assert_eq!(code(&[own.clone(), foreign.clone()]), "push.ref_refused");
    assert_eq!(code(&[foreign, own.clone()]), "push.ref_refused");
    assert_eq!(code(&[own.clone(), own]), "push.ref_refused");
}

#[test]
fn deleting_is_refused_even_for_the_own_branch() {
    assert_eq!(
        code(&[format!("{OLD} {ZERO} refs/heads/fabrica/018f4e1c")]),
        "push.delete_refused"
    );
    let long = "0".repeat(64);
    assert_eq!(
        code(&[format!("{} {long} refs/heads/fabrica/018f4e1c", "1".repeat(64))]),
        "push.delete_refused"
    );
}

#[test]
fn push_options_and_unknown_capabilities_are_refused() {
    for capability in ["push-options", "push-cert=nonce", "something-new", "atomic2"] {
        let refused = check(&[update("refs/heads/fabrica/018f4e1c")], capability).unwrap_err();
        assert_eq!(refused.code, "push.option_refused", "{capability}");
    }
}

#[test]
fn a_plan_that_names_its_base_as_its_branch_cannot_push_to_it() {
    let allowed = Allowed::new("main", Some("main"), SESSION.parse().unwrap());
    let (request, _) = PushRequest::read(&push(&[update("refs/heads/main")], ""))
        .unwrap()
        .unwrap();
    assert_eq!(allowed.check(&request).unwrap_err().code, "push.ref_refused");
}

#[test]
fn commands_are_read_up_to_the_flush_at_whatever_byte_the_body_is_cut() {
    let bytes = push(
        &[format!("shallow {OLD}").replace('\0', ""), update("refs/heads/x")],
        "",
    );
    // The capabilities stand behind the first change, not behind the shallow line.
    assert_eq!(
        PushRequest::read(&bytes),
        Err(Malformed("a shallow line is wrong"))
    );
    let mut bytes = Vec::new();
    packet::write(&mut bytes, format!("shallow {OLD}\n").as_bytes());
    packet::write(
        &mut bytes,
        format!("{}\0report-status agent=git", update("refs/heads/x")).as_bytes(),
    );
    packet::write(&mut bytes, format!("{}\n", update("refs/heads/y")).as_bytes());
    bytes.extend_from_slice(b"0000");
    let end = bytes.len();
    bytes.extend_from_slice(b"PACK");
    for cut in 0..end {
        assert_eq!(PushRequest::read(&bytes[..cut]), Ok(None), "{cut}");
    }
    let (request, read) = PushRequest::read(&bytes).unwrap().unwrap();
    assert_eq!(read, end);
    assert_eq!(request.capabilities, ["report-status", "agent=git"]);
    let names: Vec<_> = request
        .commands
        .iter()
        .map(|command| command.name.as_str())
        .collect();
    assert_eq!(names, ["refs/heads/x", "refs/heads/y"]);
}

#[test]
fn lines_that_git_might_read_otherwise_are_malformed() {
    let own = update("refs/heads/fabrica/018f4e1c");
    let lines = [
        format!("push-cert\0{own}"),
        format!("{OLD} {NEW}"),
        format!("{OLD}  {NEW} refs/heads/x"),
        format!("{} {NEW} refs/heads/x", OLD.to_uppercase().replace('1', "A")),
        format!("{OLD} {} refs/heads/x", "2".repeat(64)),
        format!("{OLD} {NEW} refs/heads/x\nrefs/heads/y"),
        format!("{OLD} {NEW} refs/heads/x\r"),
    ];
    for line in lines {
        let mut bytes = Vec::new();
        packet::write(&mut bytes, line.as_bytes());
        bytes.extend_from_slice(b"0000");
        assert!(PushRequest::read(&bytes).is_err(), "{line:?}");
    }
    let mut second = Vec::new();
    packet::write(&mut second, format!("{own}\0report-status").as_bytes());
    packet::write(&mut second, format!("{own}\0push-options").as_bytes());
    second.extend_from_slice(b"0000");
    assert_eq!(
        PushRequest::read(&second),
        Err(Malformed("capabilities are in the wrong place"))
    );
}

#[test]
fn endless_lists_are_refused_before_they_are_held() {
    let mut bytes = Vec::new();
    while bytes.len() <= LONGEST_PRELUDE {
        packet::write(&mut bytes, format!("shallow {OLD}\n").as_bytes());
    }
    assert_eq!(
        PushRequest::read(&bytes),
        Err(Malformed("the list of refs is too long"))
    );
    let many: Vec<_> = (0..=MOST_COMMANDS)
        .map(|n| update(&format!("refs/heads/{n}")))
        .collect();
    assert_eq!(
        PushRequest::read(&push(&many, "")),
        Err(Malformed("it changes too many refs"))
    );
}
