import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import contractledger.client.ApiClient;
import contractledger.client.ApiException;
import contractledger.client.JSON;
import contractledger.client.api.AuditApi;
import contractledger.client.api.ContractsApi;
import contractledger.client.api.ContractsApi.*;
import contractledger.client.api.EventsApi;
import contractledger.client.model.*;
import java.io.File;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Plays the case by the generated Java client, and prints what it met: a JSON object a line. */
public class Play {
    static final String LEDGER = System.getenv("LEDGER_NAME");
    static final ObjectMapper MAPPER = JSON.getDefault().getMapper();
    static final byte[] NODE = {1};

    static ApiClient client(String url) {
        ApiClient client = new ApiClient();
        client.updateBaseUri(url);
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + System.getenv("LEDGER_API_KEY")));
        return client;
    }

    static void say(String step, Map<String, ?> members) throws Exception {
        Map<String, Object> line = new TreeMap<>(members);
        line.put("step", step);
        System.out.println(MAPPER.writeValueAsString(line));
    }

    static byte[] sha256(byte[]... parts) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        for (byte[] part : parts) {
            digest.update(part);
        }
        return digest.digest();
    }

    /** The root that a path leads to: RFC 9162, section 2.1.3.2. */
    static String root(InclusionProof proof, byte[] leaf) throws Exception {
        long at = proof.getIndex();
        long last = proof.getSize() - 1;
        byte[] told = leaf;
        for (String written : proof.getPath()) {
            byte[] sibling = Base64.getDecoder().decode(written);
            if (at % 2 == 1 || at == last) {
                told = sha256(NODE, sibling, told);
                while (at % 2 == 0 && at > 0) {
                    at /= 2;
                    last /= 2;
                }
            } else {
                told = sha256(NODE, told, sibling);
            }
            at /= 2;
            last /= 2;
        }
        return last == 0 ? Base64.getEncoder().encodeToString(told) : "";
    }

    static List<String> types(List<Event> events) {
        return events.stream().map(Event::getEventType).toList();
    }

    public static void main(String[] arguments) throws Exception {
        JsonNode played = MAPPER.readTree(new File(System.getenv("CASE")));
        ApiClient here = client(System.getenv("LEDGER_URL"));
        ContractsApi contracts = new ContractsApi(here);
        EventsApi events = new EventsApi(here);

        ContractReportedRequest opening = MAPPER.treeToValue(played.get(0).get("body"), ContractReportedRequest.class);
        Receipt opened = contracts.reportContract(
                APIReportContractRequest.newBuilder().ledger(LEDGER).contractReportedRequest(opening).idempotencyKey("play-1").build());
        String id = opened.getContractId();
        say("opened", Map.of("contract_id", id, "revision", opened.getRevision()));
        RecordEventsRequest batch = new RecordEventsRequest();
        for (int index = 1; index < 4; index++) {
            ObjectNode item = played.get(index).get("body").deepCopy();
            item.set("event_type", played.get(index).get("event_type"));
            batch.addEventsItem(MAPPER.treeToValue(item, NewEventItem.class));
        }
        Receipt stated = contracts.recordEvents(APIRecordEventsRequest.newBuilder().ledger(LEDGER).contractId(id)
                .recordEventsRequest(batch).idempotencyKey("play-2").ifMatch("\"1\"").build());
        contracts.recordAgreementLinked(APIRecordAgreementLinkedRequest.newBuilder().ledger(LEDGER).contractId(id)
                .agreementLinkedRequest(MAPPER.treeToValue(played.get(4).get("body"), AgreementLinkedRequest.class))
                .idempotencyKey("play-5").ifMatch("\"" + stated.getRevision() + "\"").build());
        contracts.recordContractReported(APIRecordContractReportedRequest.newBuilder().ledger(LEDGER).contractId(id)
                .contractReportedRequest(MAPPER.treeToValue(played.get(5).get("body"), ContractReportedRequest.class))
                .idempotencyKey("play-6").ifMatch("\"5\"").build());
        Receipt signed = contracts.recordContractSigned(APIRecordContractSignedRequest.newBuilder().ledger(LEDGER).contractId(id)
                .contractSignedRequest(MAPPER.treeToValue(played.get(6).get("body"), ContractSignedRequest.class))
                .idempotencyKey("play-7").ifMatch("\"6\"").build());
        contracts.recordDeliveryStarted(APIRecordDeliveryStartedRequest.newBuilder().ledger(LEDGER).contractId(id)
                .deliveryStartedRequest(MAPPER.treeToValue(played.get(7).get("body"), DeliveryStartedRequest.class))
                .idempotencyKey("play-8").ifMatch("\"7\"").build());
        FigureData amount = new FigureData().figureId("krw-2").amount("1000000000000").currency("KRW")
                .basis(FigureData.BasisEnum.ESTIMATED).bound(FigureData.BoundEnum.ABOUT).scope(FigureData.ScopeEnum.TOTAL);
        FigureStatedRequest figure = new FigureStatedRequest().effectiveOn("2024-01-26").data(new FigureStated().figure(amount))
                .source(new Source().kind(Source.KindEnum.NEWS).publishedOn("2024-01-26"));
        APIRecordFigureStatedRequest ninth = APIRecordFigureStatedRequest.newBuilder().ledger(LEDGER).contractId(id)
                .figureStatedRequest(figure).idempotencyKey("play-9").ifMatch("\"8\"").build();
        Receipt last = contracts.recordFigureStated(ninth);
        Receipt again = contracts.recordFigureStated(ninth);
        List<String> rules = again.getAnomalies().stream().map(RaisedAnomaly::getRule).toList();
        say("played", Map.of("revision", last.getRevision(), "same_again", again.equals(last), "anomalies", rules));

        try {
            contracts.recordFigureStated(APIRecordFigureStatedRequest.newBuilder().ledger(LEDGER).contractId(id)
                    .figureStatedRequest(figure).idempotencyKey("play-10").ifMatch("\"3\"").build());
        } catch (ApiException refused) {
            Problem problem = MAPPER.readValue(refused.getResponseBody(), Problem.class);
            say("refused", Map.of("status", problem.getStatus(), "code", problem.getCode(), "current_revision", problem.getCurrentRevision()));
        }

        List<String> listed = new ArrayList<>();
        int pages = 0;
        String after = null;
        do {
            ContractPage page = contracts.listContracts(APIListContractsRequest.newBuilder().ledger(LEDGER).limit(2L).after(after).build());
            page.getItems().forEach(item -> listed.add(item.getContractId()));
            after = page.getNext();
            pages++;
        } while (after != null);
        say("listed", Map.of("pages", pages, "contracts", listed));

        List<Event> followed = new ArrayList<>();
        FeedPage feed = new FeedPage().hasMore(true);
        while (feed.getHasMore()) {
            feed = events.listEvents(EventsApi.APIListEventsRequest.newBuilder()
                    .ledger(LEDGER).contractId(id).limit(4L).after(feed.getNext()).build());
            followed.addAll(feed.getItems());
        }
        say("following", Map.of("event_types", types(followed)));
        feed = events.listEvents(EventsApi.APIListEventsRequest.newBuilder()
                .ledger(LEDGER).contractId(id).after(feed.getNext()).waitSeconds(30L).build());
        say("followed", Map.of("event_types", types(feed.getItems()), "text", feed.getItems().get(0).getData().get("text")));

        for (String day : List.of("2022-07-06", "2024-01-26")) {
            Contract past = contracts.getContract(APIGetContractRequest.newBuilder()
                    .ledger(LEDGER).contractId(id).effectiveOn("2023-07-01").publishedBy(day).build());
            StandingFigure best = past.getState().getValue().getBest();
            say("past", Map.of("published_by", day, "status", past.getState().getStatus(), "flagged", past.getAnomalies().size(),
                    "amount", best.getAmount(), "currency", best.getCurrency()));
        }

        InclusionProof proof = new AuditApi(here).getEventProof(AuditApi.APIGetEventProofRequest.newBuilder()
                .ledger(LEDGER).eventId(signed.getEvents().get(0).getEventId()).build());
        String told = proof.getCheckpoint().split("\n")[2];
        byte[] leaf = HexFormat.of().parseHex(signed.getEvents().get(0).getEventHash());
        say("proved", Map.of("included", root(proof, leaf).equals(told), "forged", root(proof, sha256(leaf)).equals(told)));

        ApiClient future = client(System.getenv("LEDGER_FUTURE_URL"));
        List<Event> met = new EventsApi(future).listEvents(EventsApi.APIListEventsRequest.newBuilder().ledger(LEDGER).limit(2L).build()).getItems();
        ContractState state = new ContractsApi(future).getContract(APIGetContractRequest.newBuilder().ledger(LEDGER).contractId(id).build()).getState();
        say("future", Map.of("event_type", met.get(0).getEventType(), "data", met.get(0).getData(),
                "known", met.get(1).getEventType(), "title", state.getTitle()));
    }
}
