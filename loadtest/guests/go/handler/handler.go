// Package export_wasi_http_incoming_handler answers requests. Its name, and that of its folder in
// the built module, are those that the generated entry point calls.
package export_wasi_http_incoming_handler

import (
	"errors"
	"fmt"
	"net/url"

	. "go.bytecodealliance.org/pkg/wit/types"

	http "wit_component/wasi_http_types"

	outgoing "wit_component/wasi_http_outgoing_handler"
	streams "wit_component/wasi_io_streams"
	atomics "wit_component/wasi_keyvalue_atomics"
	store "wit_component/wasi_keyvalue_store"
)

// What one host call writes at most.
const writeBytesMax = 4096

// Handle answers one request.
func Handle(request *http.IncomingRequest, out *http.ResponseOutparam) {
	defer request.Drop()
	status, headers, body := answer(request)
	response := http.MakeOutgoingResponse(headers)
	response.SetStatusCode(status)
	sink := response.Body().Ok()
	http.ResponseOutparamSet(out, Ok[*http.OutgoingResponse, http.ErrorCode](response))
	write(sink, body)
}

func answer(request *http.IncomingRequest) (uint16, *http.Fields, []byte) {
	headers := http.MakeFields()
	target, err := url.Parse(request.PathWithQuery().SomeOr("/"))
	if err != nil {
		return 400, headers, []byte(err.Error())
	}
	query := target.Query()
	switch target.Path {
	case "/":
		return 200, headers, []byte("hello from Go\n")
	case "/echo":
		asked := request.Headers()
		defer asked.Drop()
		headers.Set("content-type", asked.Get("content-type"))
		body, err := read(request.Consume().Ok())
		if err != nil {
			return 400, headers, []byte(err.Error())
		}
		return 200, headers, body
	case "/count":
		count, err := increment("default", query.Get("key"))
		if err != nil {
			return 502, headers, []byte(err.Error())
		}
		return 200, headers, fmt.Appendf(nil, "%d\n", count)
	case "/out":
		page, err := fetch(query.Get("url"))
		if err != nil {
			return 502, headers, fmt.Appendf(nil, "refused: %v\n", err)
		}
		return 200, headers, page
	default:
		return 404, headers, []byte("no such path\n")
	}
}

// increment adds one to a number in a bucket.
func increment(bucket, key string) (int64, error) {
	opened := store.Open(bucket)
	if opened.IsErr() {
		return 0, fmt.Errorf("open: error %d of wasi:keyvalue", opened.Err().Tag())
	}
	defer opened.Ok().Drop()
	count := atomics.Increment(opened.Ok(), key, 1)
	if count.IsErr() {
		return 0, fmt.Errorf("increment: error %d of wasi:keyvalue", count.Err().Tag())
	}
	return count.Ok(), nil
}

// fetch returns the status and the body of an answer.
func fetch(address string) ([]byte, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	scheme := http.MakeSchemeHttp()
	if target.Scheme == "https" {
		scheme = http.MakeSchemeHttps()
	}
	request := http.MakeOutgoingRequest(http.MakeFields())
	request.SetScheme(Some(scheme))
	request.SetAuthority(Some(target.Host))
	request.SetPathWithQuery(Some(target.RequestURI()))
	sent := outgoing.Handle(request, None[*http.RequestOptions]())
	if sent.IsErr() {
		return nil, fmt.Errorf("error %d of wasi:http", sent.Err().Tag())
	}
	pending := sent.Ok()
	defer pending.Drop()
	ready := pending.Subscribe()
	ready.Block()
	ready.Drop()
	answer := pending.Get().Some().Ok()
	if answer.IsErr() {
		return nil, fmt.Errorf("error %d of wasi:http", answer.Err().Tag())
	}
	response := answer.Ok()
	defer response.Drop()
	body, err := read(response.Consume().Ok())
	return fmt.Appendf(nil, "%d %s", response.Status(), body), err
}

func read(body *http.IncomingBody) ([]byte, error) {
	defer body.Drop()
	stream := body.Stream().Ok()
	defer stream.Drop()
	var all []byte
	for {
		chunk := stream.BlockingRead(64 << 10)
		if chunk.IsOk() {
			all = append(all, chunk.Ok()...)
			continue
		}
		if chunk.Err().Tag() != streams.StreamError_Closed {
			return nil, errors.New("the body broke off")
		}
		return all, nil
	}
}

// write sends a whole body; a client that left takes no more of it.
func write(sink *http.OutgoingBody, body []byte) {
	stream := sink.Write().Ok()
	for len(body) > 0 {
		part := body[:min(len(body), writeBytesMax)]
		if stream.BlockingWriteAndFlush(part).IsErr() {
			break
		}
		body = body[len(part):]
	}
	stream.Drop()
	http.OutgoingBodyFinish(sink, None[*http.Fields]())
}
