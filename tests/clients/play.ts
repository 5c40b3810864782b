/** Plays the case by the generated TypeScript client, and prints what it met: a JSON object a line. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { AuditApi, Configuration, ContractReportedRequestFromJSON, ContractsApi, EventsApi, FigureStatedRequest, InclusionProof, ProblemFromJSON, ResponseError } from 'contract-ledger-client';
import type { components } from 'contract-ledger-types';

const ledger = process.env.LEDGER_NAME!;
const played: { event_type: string; body: any }[] = JSON.parse(readFileSync(process.env.CASE!, 'utf8'));
const sha256 = (...parts: Uint8Array[]): Uint8Array => createHash('sha256').update(Buffer.concat(parts)).digest();
const [LEAF_AND, NODE] = [Uint8Array.of(0), Uint8Array.of(1)];

function client(url: string): Configuration {
    return new Configuration({ basePath: url, accessToken: process.env.LEDGER_API_KEY });
}

function say(step: string, members: object): void {
    console.log(JSON.stringify({ step, ...members }));
}

/** RFC 9162, section 2.1.3.2: the root that a path leads to. */
function root(proof: InclusionProof, leaf: Uint8Array): string {
    let [at, last, told] = [proof.index, proof.size - 1, leaf];
    for (const sibling of proof.path.map((hash) => Buffer.from(hash, 'base64'))) {
        if (at % 2 || at === last) {
            told = sha256(NODE, sibling, told);
            while (at % 2 === 0 && at) {
                [at, last] = [at >> 1, last >> 1];
            }
        } else {
            told = sha256(NODE, told, sibling);
        }
        [at, last] = [at >> 1, last >> 1];
    }
    return last === 0 ? Buffer.from(told).toString('base64') : '';
}

async function main(): Promise<void> {
    const here = client(process.env.LEDGER_URL!);
    const [contracts, events, audit] = [new ContractsApi(here), new EventsApi(here), new AuditApi(here)];

    const opening = ContractReportedRequestFromJSON(played[0].body);
    const opened = await contracts.reportContract({ ledger, contractReportedRequest: opening, idempotencyKey: 'play-1' });
    const contractId = opened.contract_id;
    say('opened', { contract_id: contractId, revision: opened.revision });
    const batch = { events: played.slice(1, 4).map(({ event_type, body }) => ({ event_type, ...body })) };
    const stated = await contracts.recordEvents({ ledger, contractId, recordEventsRequest: batch, idempotencyKey: 'play-2', ifMatch: '"1"' });
    const at = { ledger, contractId };
    await contracts.recordAgreementLinked({ ...at, agreementLinkedRequest: played[4].body, idempotencyKey: 'play-5', ifMatch: `"${stated.revision}"` });
    await contracts.recordContractReported({ ...at, contractReportedRequest: played[5].body, idempotencyKey: 'play-6', ifMatch: '"5"' });
    const signed = await contracts.recordContractSigned({ ...at, contractSignedRequest: played[6].body, idempotencyKey: 'play-7', ifMatch: '"6"' });
    await contracts.recordDeliveryStarted({ ...at, deliveryStartedRequest: played[7].body, idempotencyKey: 'play-8', ifMatch: '"7"' });
    const figure: FigureStatedRequest = {
        effective_on: '2024-01-26',
        source: { kind: 'news', published_on: '2024-01-26' },
        data: { figure: { figure_id: 'krw-2', amount: '1000000000000', currency: 'KRW', basis: 'estimated', bound: 'about', scope: 'total' } },
    };
    const typed: components['schemas']['FigureStatedRequest'] = figure;
    const last = await contracts.recordFigureStated({ ...at, figureStatedRequest: typed, idempotencyKey: 'play-9', ifMatch: '"8"' });
    const again = await contracts.recordFigureStated({ ...at, figureStatedRequest: figure, idempotencyKey: 'play-9', ifMatch: '"8"' });
    const same = JSON.stringify(again) === JSON.stringify(last);
    say('played', { revision: last.revision, same_again: same, anomalies: again.anomalies.map((anomaly) => anomaly.rule) });

    try {
        await contracts.recordFigureStated({ ...at, figureStatedRequest: figure, idempotencyKey: 'play-10', ifMatch: '"3"' });
    } catch (refused) {
        const problem = ProblemFromJSON(await (refused as ResponseError).response.json());
        say('refused', { status: problem.status, code: problem.code, current_revision: problem.current_revision });
    }

    let page = await contracts.listContracts({ ledger, limit: 2 });
    let pages = 1;
    const listed = page.items.map((item) => item.contract_id);
    while (page.next !== undefined) {
        page = await contracts.listContracts({ ledger, limit: 2, after: page.next });
        pages += 1;
        listed.push(...page.items.map((item) => item.contract_id));
    }
    say('listed', { pages, contracts: listed });

    let feed = await events.listEvents({ ledger, contractId, limit: 4 });
    const followed = [...feed.items];
    while (feed.has_more) {
        feed = await events.listEvents({ ledger, contractId, limit: 4, after: feed.next });
        followed.push(...feed.items);
    }
    say('following', { event_types: followed.map((event) => event.event_type) });
    feed = await events.listEvents({ ledger, contractId, after: feed.next, wait: 30 });
    say('followed', { event_types: feed.items.map((event) => event.event_type), text: feed.items[0].data!.text });

    for (const publishedBy of ['2022-07-06', '2024-01-26']) {
        const past = await contracts.getContract({ ...at, effectiveOn: '2023-07-01', publishedBy });
        const best = past.state.value!.best!;
        say('past', { published_by: publishedBy, status: past.state.status, amount: best.amount, currency: best.currency, flagged: past.anomalies.length });
    }

    const proof = await audit.getEventProof({ ledger, eventId: signed.events[0].event_id });
    const told = proof.checkpoint.split('\n')[2];
    const leaf = Buffer.from(signed.events[0].event_hash, 'hex');
    say('proved', { included: root(proof, leaf) === told, forged: root(proof, sha256(LEAF_AND, leaf)) === told });

    const future = client(process.env.LEDGER_FUTURE_URL!);
    const [unknown, known] = (await new EventsApi(future).listEvents({ ledger, limit: 2 })).items;
    const { state } = await new ContractsApi(future).getContract(at);
    say('future', { event_type: unknown.event_type, data: unknown.data, known: known.event_type, title: state.title });
}

main();
