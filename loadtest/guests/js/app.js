import { open } from "wasi:keyvalue/store@0.2.0-draft2";
import { increment } from "wasi:keyvalue/atomics@0.2.0-draft2";

async function handle(request) {
  const url = new URL(request.url);
  switch (url.pathname) {
    case "/":
      return new Response("hello from JavaScript\n");
    case "/echo":
      return new Response(await request.arrayBuffer(), {
        headers: { "content-type": request.headers.get("content-type") ?? "application/octet-stream" },
      });
    case "/count":
      return new Response(`${increment(open("default"), url.searchParams.get("key"), 1n)}\n`);
    case "/out":
      try {
        const answer = await fetch(url.searchParams.get("url"));
        return new Response(`${answer.status} ${await answer.text()}`);
      } catch (error) {
        return new Response(`refused: ${error}\n`, { status: 502 });
      }
    default:
      return new Response("no such path\n", { status: 404 });
  }
}

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));
