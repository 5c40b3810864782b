// Plays the case by the generated Go client, and prints what it met: a JSON object a line.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"contract-ledger.example/client/ledger"
)

var (
	name = os.Getenv("LEDGER_NAME")
	ctx  = context.WithValue(context.Background(), ledger.ContextAccessToken, os.Getenv("LEDGER_API_KEY"))
	node = []byte{1}
)

type played struct {
	EventType string         `json:"event_type"`
	Body      map[string]any `json:"body"`
}

func client(url string) *ledger.APIClient {
	configuration := ledger.NewConfiguration()
	configuration.Servers = ledger.ServerConfigurations{{URL: url}}
	return ledger.NewAPIClient(configuration)
}

func must[T any](answer *T, _ any, err error) *T {
	if err != nil {
		panic(err)
	}
	return answer
}

// as makes a request of a body as it stands in the case.
func as[T any](body any) T {
	var request T
	written, err := json.Marshal(body)
	if err == nil {
		err = json.Unmarshal(written, &request)
	}
	if err != nil {
		panic(err)
	}
	return request
}

func say(step string, members map[string]any) {
	members["step"] = step
	line, _ := json.Marshal(members)
	fmt.Println(string(line))
}

func hash(parts ...[]byte) []byte {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

// root is where a path leads to: RFC 9162, section 2.1.3.2.
func root(proof *ledger.InclusionProof, leaf []byte) string {
	at, last, told := proof.Index, proof.Size-1, leaf
	for _, written := range proof.Path {
		sibling, _ := base64.StdEncoding.DecodeString(written)
		if at%2 == 1 || at == last {
			told = hash(node, sibling, told)
			for at%2 == 0 && at > 0 {
				at, last = at/2, last/2
			}
		} else {
			told = hash(node, told, sibling)
		}
		at, last = at/2, last/2
	}
	if last != 0 {
		return ""
	}
	return base64.StdEncoding.EncodeToString(told)
}

func types(events []ledger.Event) []string {
	found := []string{}
	for _, event := range events {
		found = append(found, event.EventType)
	}
	return found
}

func main() {
	var events []played
	file, _ := os.ReadFile(os.Getenv("CASE"))
	if err := json.Unmarshal(file, &events); err != nil {
		panic(err)
	}
	here := client(os.Getenv("LEDGER_URL"))
	contracts, feeds := here.ContractsAPI, here.EventsAPI

	opening := as[ledger.ContractReportedRequest](events[0].Body)
	opened := must(contracts.ReportContract(ctx, name).ContractReportedRequest(opening).IdempotencyKey("play-1").Execute())
	id := opened.ContractId
	say("opened", map[string]any{"contract_id": id, "revision": opened.Revision})
	batch := []map[string]any{}
	for _, event := range events[1:4] {
		event.Body["event_type"] = event.EventType
		batch = append(batch, event.Body)
	}
	several := as[ledger.RecordEventsRequest](map[string]any{"events": batch})
	stated := must(contracts.RecordEvents(ctx, name, id).RecordEventsRequest(several).IdempotencyKey("play-2").IfMatch(`"1"`).Execute())
	linked := as[ledger.AgreementLinkedRequest](events[4].Body)
	tag := fmt.Sprintf(`"%d"`, stated.Revision)
	must(contracts.RecordAgreementLinked(ctx, name, id).AgreementLinkedRequest(linked).IdempotencyKey("play-5").IfMatch(tag).Execute())
	negotiated := as[ledger.ContractReportedRequest](events[5].Body)
	must(contracts.RecordContractReported(ctx, name, id).ContractReportedRequest(negotiated).IdempotencyKey("play-6").IfMatch(`"5"`).Execute())
	signing := as[ledger.ContractSignedRequest](events[6].Body)
	signed := must(contracts.RecordContractSigned(ctx, name, id).ContractSignedRequest(signing).IdempotencyKey("play-7").IfMatch(`"6"`).Execute())
	begun := as[ledger.DeliveryStartedRequest](events[7].Body)
	must(contracts.RecordDeliveryStarted(ctx, name, id).DeliveryStartedRequest(begun).IdempotencyKey("play-8").IfMatch(`"7"`).Execute())
	figure := as[ledger.FigureStatedRequest](events[8].Body)
	state := contracts.RecordFigureStated(ctx, name, id).FigureStatedRequest(figure)
	last := must(state.IdempotencyKey("play-9").IfMatch(`"8"`).Execute())
	again := must(state.IdempotencyKey("play-9").IfMatch(`"8"`).Execute())
	rules := []string{}
	for _, anomaly := range again.Anomalies {
		rules = append(rules, anomaly.Rule)
	}
	same := last.Events[0].EventId == again.Events[0].EventId
	say("played", map[string]any{"revision": last.Revision, "same_again": same, "anomalies": rules})

	_, _, err := state.IdempotencyKey("play-10").IfMatch(`"3"`).Execute()
	var refused *ledger.GenericOpenAPIError
	if errors.As(err, &refused) {
		problem := refused.Model().(ledger.Problem)
		say("refused", map[string]any{"status": problem.Status, "code": problem.Code, "current_revision": problem.CurrentRevision})
	}

	page := must(contracts.ListContracts(ctx, name).Limit(2).Execute())
	pages, listed := 1, []string{}
	for {
		for _, item := range page.Items {
			listed = append(listed, item.ContractId)
		}
		if page.Next == nil {
			break
		}
		page = must(contracts.ListContracts(ctx, name).Limit(2).After(*page.Next).Execute())
		pages++
	}
	say("listed", map[string]any{"pages": pages, "contracts": listed})

	feed := must(feeds.ListEvents(ctx, name).ContractId(id).Limit(4).Execute())
	followed := feed.Items
	for feed.HasMore {
		feed = must(feeds.ListEvents(ctx, name).ContractId(id).Limit(4).After(feed.Next).Execute())
		followed = append(followed, feed.Items...)
	}
	say("following", map[string]any{"event_types": types(followed)})
	feed = must(feeds.ListEvents(ctx, name).ContractId(id).After(feed.Next).Wait(30).Execute())
	say("followed", map[string]any{"event_types": types(feed.Items), "text": feed.Items[0].Data["text"]})

	for _, day := range []string{"2022-07-06", "2024-01-26"} {
		past := must(contracts.GetContract(ctx, name, id).EffectiveOn("2023-07-01").PublishedBy(day).Execute())
		best := past.State.Value.Best
		told := map[string]any{"published_by": day, "status": past.State.Status, "flagged": len(past.Anomalies)}
		told["amount"], told["currency"] = best.Amount, best.Currency
		say("past", told)
	}

	proof := must(here.AuditAPI.GetEventProof(ctx, name, signed.Events[0].EventId).Execute())
	told := strings.Split(proof.Checkpoint, "\n")[2]
	leaf, _ := hex.DecodeString(signed.Events[0].EventHash)
	say("proved", map[string]any{"included": root(proof, leaf) == told, "forged": root(proof, hash(leaf)) == told})

	future := client(os.Getenv("LEDGER_FUTURE_URL"))
	met := must(future.EventsAPI.ListEvents(ctx, name).Limit(2).Execute()).Items
	title := must(future.ContractsAPI.GetContract(ctx, name, id).Execute()).State.Title
	say("future", map[string]any{"event_type": met[0].EventType, "data": met[0].Data, "known": met[1].EventType, "title": title})
}
