//! Expressions as people write them, over alerts as Microsoft Graph sends them: none is taken for one that could take long.
//!
//! Measured over 2.5 MB, without optimisation: each takes less than a tenth of a second.

use indicator_relay::playbooks::expression::{Expression, Input};
use serde_json::{Value, json};

/// As expressions see it, with so many pieces of evidence.
fn alert(evidence: usize) -> Value {
    let one = |n: usize| {
        json!({
            "@odata.type": if n.is_multiple_of(3) { "#microsoft.graph.security.deviceEvidence" } else if n % 3 == 1 { "#microsoft.graph.security.ipEvidence" } else { "#microsoft.graph.security.fileEvidence" },
            "createdDateTime": format!("2026-11-{:02}T{:02}:00:00.123Z", n % 28 + 1, n % 24), "verdict": if n.is_multiple_of(2) { "malicious" } else { "suspicious" },
            "remediationStatus": "none", "remediationStatusDetails": null, "roles": ["compromised", "source"], "detailedRoles": ["x"], "tags": ["a", "b", "c"],
            "ipAddress": format!("203.0.113.{}", n % 250), "deviceDnsName": format!("host{n}.example.org"), "riskScore": n % 100, "mdeDeviceId": format!("{n:040}"),
            "loggedOnUsers": [{"accountName": format!("u{n}"), "domainName": "EXAMPLE"}, {"accountName": "admin", "domainName": "EXAMPLE"}],
            "fileDetails": {"sha1": format!("{n:040}"), "sha256": format!("{n:064}"), "fileName": "a.exe", "fileSize": n * 100, "filePublisher": null, "issuer": null, "signer": null},
            "userAccount": {"accountName": format!("u{n}"), "domainName": "EXAMPLE", "userSid": "S-1-5-21", "azureAdUserId": null, "userPrincipalName": format!("u{n}@example.org"), "displayName": "User Name"},
            "vmMetadata": {"vmId": "x", "cloudProvider": "azure", "resourceId": "/subscriptions/x/resourceGroups/y", "subscriptionId": "z"},
        })
    };
    json!({"notification": {"changeType": "created", "resource": "security/alerts_v2/x", "resourceData": {"id": "x"}},
     "meta": {"playbook": "p", "tenant": "t", "attempt": 0},
     "resource": {"id": "x", "title": "Suspicious", "severity": "high", "category": "Malware", "status": "new", "createdDateTime": "2026-11-01T00:00:00Z", "description": "long text ".repeat(20),
       "mitreTechniques": ["T1059", "T1105"], "comments": [{"comment": "c", "createdByDisplayName": "n"}], "alertWebUrl": "https://security.microsoft.com/alerts/x",
       "evidence": (0..evidence).map(one).collect::<Vec<_>>() }})
}

const REALISTIC: &[&str] = &[
    "resource.severity == 'high'",
    "resource.title",
    "resource.evidence[].ipAddress",
    "resource.evidence[*].ipAddress | [0]",
    "resource.evidence[?verdict=='malicious'].ipAddress",
    "resource.evidence[?verdict=='malicious' && riskScore > `50`].{ip: ipAddress, host: deviceDnsName}",
    r#"resource.evidence[?"@odata.type"=='#microsoft.graph.security.ipEvidence'] | [?verdict=='malicious'] | sort_by(@,&createdDateTime) | reverse(@) | [*].{a: ipAddress, b: deviceDnsName, c: verdict, d: createdDateTime, e: riskScore}"#,
    "sort_by(resource.evidence[?verdict=='malicious'], &createdDateTime)[-1].ipAddress",
    "resource.evidence[].loggedOnUsers[].accountName",
    "resource.evidence[*].loggedOnUsers[*].accountName[]",
    "resource.evidence[].loggedOnUsers[?domainName=='EXAMPLE'][].accountName | sort(@)",
    "resource.evidence[].[ipAddress, deviceDnsName, fileDetails.sha256][]",
    "resource.evidence[].fileDetails.[sha1, sha256][] | sort(@) | join(', ', @)",
    "join(', ', resource.evidence[].ipAddress)",
    "length(resource.evidence[?contains(roles, 'compromised')])",
    "resource.evidence[?contains(roles, 'compromised')].userAccount.{name: accountName, domain: domainName, sid: userSid, upn: userPrincipalName}",
    "resource.evidence[].{a: ipAddress, b: deviceDnsName, c: riskScore, d: mdeDeviceId, e: fileDetails.sha1, f: fileDetails.sha256, g: userAccount.accountName, h: userAccount.userSid, i: vmMetadata.vmId, j: verdict, k: roles, l: tags} | [?a].{x: a, y: b, z: c, w: d, v: e} | [*].[x, y, z, w, v]",
    "{title: resource.title, id: resource.id, severity: resource.severity, ips: resource.evidence[].ipAddress, hosts: resource.evidence[].deviceDnsName, files: resource.evidence[].fileDetails.sha256, users: resource.evidence[].userAccount.userPrincipalName, first: resource.evidence[0], count: length(resource.evidence)}",
    r#"{mal: resource.evidence[?verdict=='malicious'].ipAddress, sus: resource.evidence[?verdict=='suspicious'].ipAddress, dev: resource.evidence[?contains("@odata.type",'device')], ip: resource.evidence[?contains("@odata.type",'ip')], file: resource.evidence[?contains("@odata.type",'file')]}"#,
    "max_by(resource.evidence, &riskScore).deviceDnsName",
    "sum(resource.evidence[].riskScore)",
    "avg(resource.evidence[?riskScore].riskScore)",
    "to_string(resource)",
    "to_string(resource.evidence[?verdict=='malicious'])",
    "resource.evidence[].to_string(@)",
    "map(&to_string(@), resource.evidence)",
    "resource.evidence[].merge(fileDetails, userAccount)",
    "resource.evidence[].keys(@)[]",
    "resource.evidence[].values(fileDetails)[]",
    "resource.evidence[].* | [][]",
    "resource.*.*[]",
    "not_null(resource.evidence[0].ipAddress, resource.evidence[0].deviceDnsName, resource.title, 'none')",
    "resource.evidence[].not_null(ipAddress, deviceDnsName, fileDetails.sha1)",
    "resource.evidence[].join('/', [userAccount.domainName, userAccount.accountName])",
    "sort_by(resource.evidence[?riskScore > `10`] | [?verdict != 'clean'] | [?!remediationStatusDetails], &riskScore) | [::-1] | [:10].{ip: ipAddress, host: deviceDnsName}",
    "sort_by(sort_by(resource.evidence, &createdDateTime), &verdict)[].{v: verdict, t: createdDateTime}",
    "resource.evidence[?starts_with(ipAddress, '203.')] | [?ends_with(deviceDnsName, '.org')] | [].ipAddress | sort(@) | [0]",
    "resource.evidence[].{ip: ipAddress, users: loggedOnUsers[].{n: accountName, d: domainName}, file: fileDetails} | [?users[?n=='admin']] | sort_by(@, &ip) | [*].{i: ip, u: users[*].n | join(',', @)}",
    "resource.evidence[] | [?type(ipAddress) == 'string'] | {ips: [*].ipAddress, hosts: [*].deviceDnsName, n: length(@)} | [to_string(n), join(' ', ips), join(' ', hosts)]",
    "[resource.evidence[?riskScore >= `90`], resource.evidence[?riskScore >= `50` && riskScore < `90`], resource.evidence[?riskScore < `50`]] | [*].{n: length(@), hosts: [*].deviceDnsName}",
    "resource.evidence[].{a: @, b: @} | [].{c: a, d: b}",
    // Five filters in one another.
    "sort_by(resource.a[?x=='1'].b[?y=='2'][].c[?z=='3'][].d[?w=='4'][], &k)[0].v",
    "resource.evidence[?a=='1'].b[?c=='2'].d[?e=='3'].f[?g=='4'].h[?i=='5'].j",
];

/// 10 KB, 200 KB, 2 MB and more.
#[test]
fn what_people_write_is_run_over_alerts_of_any_size() {
    let inputs = [9, 180, 1_900, 3_600].map(|evidence| Input::new(&alert(evidence)).expect("4 MiB at most"));
    for text in REALISTIC {
        let expression = Expression::compile(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        for input in &inputs {
            let found = expression.run(input);
            // What a function does not take is told when it runs.
            assert!(!found.is_err_and(|problem| problem.contains("longer")), "{text}");
        }
    }
}

#[test]
fn what_multiplies_is_refused_before_it_runs() {
    let input = Input::new(&alert(1_900)).expect("4 MiB at most");
    let small = Input::new(&alert(9)).expect("small");
    for part in [
        "[@, @]",
        "[@, @][]",
        "{a: @, b: @}",
        "to_array(@).[@[0], @[0]]",
        "[?`true`].[@, @][]",
        "[*].[@, @]",
        "to_string([@, @])",
    ] {
        let refused = |times: usize| Expression::compile(&vec![part; times].join(" | ")).map(|expression| expression.run(&input));
        assert!(matches!(refused(12), Err(_) | Ok(Err(_))), "{part}: at the latest where it is run");
        assert!(refused(40).is_err(), "{part}: as soon as it is read");
        let twice = Expression::compile(&[part; 2].join(" | ")).expect("harmless");
        drop(twice.run(&small).map_err(|problem| assert!(!problem.contains("longer"), "{part}: {problem}")));
    }
}
