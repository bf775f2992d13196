use super::*;
use tonic::Code;

#[tokio::test]
async fn a_wrong_protocol_is_told_what_to_upgrade() {
    let world = World::new().await;
    let newer = proto::PROTOCOL_MAX + 1;
    let foreign = v1::Hello { protocol_min: newer, protocol_max: newer, ..hello() };
    let mut sidecar = Sidecar::connect(&world.channel).await;
    sidecar.say(Said::Hello(foreign)).await;
    let Told::Refuse(refuse) = sidecar.told().await else { panic!("it is refused") };
    assert!(
        refuse.code == "protocol" && refuse.r#final && refuse.message.contains("upgrade the informer"),
        "{refuse:?}"
    );
    assert!(sidecar.end().await.is_none());
}

#[tokio::test]
async fn a_bad_introduction_ends_the_link() {
    let world = World::new().await;
    let part = v1::Inventory { attempts: vec![v1::HeldAttempt::default()] };
    for messages in [
        vec![Said::Pong(v1::Pong::default())],
        vec![Said::Hello(v1::Hello { sidecar: "me".to_owned(), ..hello() })],
        vec![Said::Hello(v1::Hello { slots: u32::MAX, ..hello() })],
        vec![Said::Hello(v1::Hello { inventory_parts: 1, ..hello() }), Said::Beat(v1::Beat::default())],
        vec![Said::Hello(v1::Hello { inventory_parts: 1, ..hello() }), Said::Inventory(part)],
    ] {
        let mut sidecar = Sidecar::connect(&world.channel).await;
        for message in messages {
            sidecar.say(message).await;
        }
        let end = sidecar.end().await.expect("it is refused");
        assert_eq!((end.code(), code(&end).as_str()), (Code::InvalidArgument, "invalid"));
    }
}

#[tokio::test]
async fn a_bad_message_ends_its_own_link_only() {
    let world = World::new().await;
    let mut good = world.sidecar().await;
    let mut bad = Sidecar::connect(&world.channel).await;
    bad.introduce(v1::Hello { sidecar: "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6c".to_owned(), ..hello() }).await;
    bad.say(Said::Beat(v1::Beat::default())).await;
    assert_eq!(bad.end().await.map(|status| status.code()), Some(Code::InvalidArgument));
    good.beat(1).await;
    loop {
        if let Told::BeatAck(ack) = good.told().await {
            assert_eq!(ack.seq, 1);
            return;
        }
    }
}

#[tokio::test]
async fn the_newer_incarnation_wins() {
    let world = World::new().await;
    let mut older = world.sidecar().await;
    let mut newer = Sidecar::connect(&world.channel).await;
    newer.introduce(v1::Hello { incarnation: 2, ..hello() }).await;
    let refuse = loop {
        match older.told().await {
            Told::Refuse(refuse) => break refuse,
            // They follow the welcome.
            Told::Executors(_) => {}
            other => panic!("the older is told: {other:?}"),
        }
    };
    assert_eq!(refuse.code, "superseded");
    assert!(older.end().await.is_none());
}
