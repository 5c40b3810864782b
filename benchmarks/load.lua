-- The load that wrk makes. Arguments after `--`: what (append, read), against whom (service, empty), the key, the run's number, the
-- file with the run's contracts, one id a line, and "checked" to look at every answer, which is for warming up: it takes wrk's time.
-- The mixture is explained in benchmarks/mixture.py.

local what, whom, key, run, pool
local turn, first = 0, true
local headers

local function day(since_days)
  return os.date("!%Y-%m-%d", 1688169600 + 86400 * since_days) -- from 2023-07-01
end

function init(args)
  what, whom, key, run = args[1], args[2], args[3], "r" .. args[4]
  math.randomseed(tonumber(args[4]))
  pool = {}
  for id in io.lines(args[5]) do
    pool[#pool + 1] = {path = "/v1/ledgers/main/contracts/" .. id, figure = "f-2", last = 0}
  end
  headers = {["Authorization"] = "Bearer " .. key, ["Content-Type"] = "application/json"}
  if args[6] == "checked" then
    response = check
  end
end

function check(status, _, body)
  if status ~= (what == "append" and 201 or 200) then
    io.stderr:write("WRONG ", status, " ", body, "\n")
  end
end

local SOURCES = {
  '{"kind":"news","name":"Korea Economic Daily","published_on":"2022-07-06"}',
  '{"kind":"news","via":"Reuters","published_on":"2022-07-06"}',
  '{"kind":"filing","name":"LG Energy Solution","published_on":"2024-01-26"}',
}

local function figure(id)
  return '{"figure_id":"' .. id .. '","amount":"' .. (990 + math.random(0, 20)) ..
    '000000000","currency":"KRW","basis":"reported","bound":"about","scope":"total","note":"may rise: the buyer may order more"}'
end

local function envelope(on, data)
  return '{"effective_on":"' .. on .. '","source":' .. SOURCES[math.random(3)] .. ',"data":' .. data .. '}'
end

local SIGNED = '{"signed_by":"2022-07-01","title":"Cylindrical batteries for the electric Elf truck","kind":"supply","parties":' ..
  '[{"party_id":"lges","name":"LG Energy Solution","roles":["supplier"]},{"party_id":"isuzu","name":"Isuzu Motors","roles":["buyer"]}],' ..
  '"items":[{"item_id":"cells","description":"Cylindrical batteries for the electric Elf truck"}],"period":{"end_on":"2031-12-31"}}'

local function event(contract, id)
  local draw = math.random(100)
  contract.last = contract.last + 7
  -- Two in a hundred are known late: they take effect before what was recorded already.
  local on = math.random(100) <= 2 and "2023-01-15" or day(contract.last)
  if draw <= 35 then
    return "/figure-stated", envelope(on, '{"figure":' .. figure(id) .. '}'), id
  elseif draw <= 50 then
    local data = '{"replaces":"' .. contract.figure .. '","value":' .. figure(id) .. ',"reason":"quantity"}'
    return "/value-revised", envelope(day(contract.last), data), id
  elseif draw <= 80 then
    local data = '{"delivery_id":"' .. id .. '","item_id":"cells","quantity":"120000","unit":"EA","delivered_on":"' .. on .. '"}'
    return "/delivery-recorded", envelope(on, data)
  end
  return "/note-added", envelope(on, '{"text":"No amount is given in the filing; the press repeats its estimate."}')
end

local function append()
  turn = turn + 1
  local id = run .. "-" .. turn
  headers["Idempotency-Key"] = id
  if whom == "empty" then
    return wrk.format("POST", "/", headers, envelope(day(turn % 300), '{"figure":' .. figure(id) .. '}'))
  end
  if math.random(100) <= 10 then
    return wrk.format("POST", "/v1/ledgers/main/contracts", headers, envelope("2022-07-01", SIGNED))
  end
  -- In turn, so that two requests in flight are never of one contract, where their order could not be told.
  local contract = pool[turn % #pool + 1]
  local name, body, new = event(contract, id)
  contract.figure = new or contract.figure
  return wrk.format("POST", contract.path .. name, headers, body)
end

local function read()
  local path = pool[math.random(#pool)].path
  return wrk.format("GET", whom == "empty" and "/" or path, headers)
end

function request()
  if first then -- wrk asks once for a sample and does not send it
    first = false
    return wrk.format("GET", "/")
  end
  return what == "append" and append() or read()
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"refused":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
