/** The requests that this page makes, with the reader's key where there is one. */

const NAME = "consonance.key";

/** An answer that is not a success; `status` 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(message, status, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The key lives as long as the tab: sessionStorage, never a cookie, so that no other site can use it. */
export const key = {
  get: () => sessionStorage.getItem(NAME),
  set: (value) => sessionStorage.setItem(NAME, value),
  drop: () => sessionStorage.removeItem(NAME),
};

export function headers(more = {}) {
  const held = key.get();
  return held ? { ...more, Authorization: `Bearer ${held}` } : more;
}

/** The JSON that a request is answered with; `within` is in milliseconds. Raises ApiError. */
export async function call(method, path, { body, within = 60_000 } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(within),
      cache: "no-store",
    });
  } catch {
    throw new ApiError("The server does not answer.", 0);
  }
  if (!answer.ok) throw await refusal(answer);
  try {
    return await answer.json();
  } catch {
    throw new ApiError("The server's answer broke off.", 0);
  }
}

/** What a refusing answer says, in OpenAI's shape or none. */
export async function refusal(answer) {
  const said = await answer.json().catch(() => null);
  const { message, code } = said?.error ?? {};
  return new ApiError(message ?? `The server answered ${answer.status}.`, answer.status, code ?? null);
}
