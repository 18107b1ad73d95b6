// A job: its name, and what it takes instead of the settings for all jobs.
// Written by `cargo xtask infra --update` from the product's table, in its order.

@export()
@sealed()
type Job = {
  @description('`a` to `z`, digits and `-`, a letter first.')
  name: string

  settings: JobSettings
}

@sealed()
type JobSettings = {
  @description('Api User: ThreatConnect access id; signs with THREATCONNECT_SECRET_KEY. Takes the access id of a ThreatConnect API user. Required: if THREATCONNECT_TOKEN is not given.')
  API_USER: string?
  @description('Microsoft Graph Client ID: Client id of the app registered in Microsoft Entra. Takes the client id of an app registration. Required: if IDENTITY=secret.')
  MICROSOFT_GRAPH_CLIENT_ID: string?
  @description('Microsoft Graph Tenant ID: Id of the Microsoft Entra tenant. Takes the id of a tenant, or one of its domain names. Required: yes.')
  MICROSOFT_GRAPH_TENANT_ID: string?
  @description('Default TLP Level: TLP of indicators without a TLP label. Clear is White. Required: yes.')
  DEFAULT_TLP_LEVEL: ('White' | 'Clear' | 'Green' | 'Amber' | 'Red')?
  @description('Target Product: Where indicators go. Required: yes.')
  TARGET_PRODUCT: ('Microsoft Sentinel' | 'Microsoft Defender for Endpoint')?
  @description('Action to Take: What the target does when it sees an indicator. Required: yes.')
  ACTION_TO_TAKE: ('Alert' | 'Block')?
  @description('Expiration Days - Email: Days until an email indicator expires at the target, unless it is sent again. Required: yes.')
  @minValue(1)
  @maxValue(3650)
  EXPIRATION_DAYS_EMAIL: int?
  @description('Expiration Days - File: The same for file indicators. Required: yes.')
  @minValue(1)
  @maxValue(3650)
  EXPIRATION_DAYS_FILE: int?
  @description('Expiration Days - Network: The same for network indicators. Required: yes.')
  @minValue(1)
  @maxValue(3650)
  EXPIRATION_DAYS_NETWORK: int?
  @description('Owners: Owners whose indicators are sent; all that the API user sees if blank. A name that does not exist is an error of the run.')
  OWNERS: string[]?
  @description('Indicator Types: Types of indicators that are sent; all ten if blank.')
  INDICATOR_TYPES: (
    | 'Address'
    | 'CIDR'
    | 'Email Address'
    | 'Email Subject'
    | 'MD5'
    | 'SHA1'
    | 'SHA256'
    | 'Host'
    | 'URL'
    | 'User Agent')[]?
  @description('Last Run: How far back the first run reads. Ignored unless only modified indicators are sent. Takes `30 days ago`, a date `2023-11-21`, or a date and time `2023-11-21T10:11:12Z`. Required: if ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN=on.')
  LAST_RUN: string?
  @description('Only Send Indicators Modified Since Last Run: On: runs read what was modified, with a full run every FULL_RUN_EVERY. Off: every run reads everything.')
  ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN: ('on' | 'off')?
  @description('TQL: Custom query. Replaces Owners, Indicator Types, Tags Filter, the three minimums and False Positive Threshold. Takes a query in TQL.')
  TQL: string?
  @description('Tags Filter: An indicator must have at least one of these tags.')
  TAGS_FILTER: string[]?
  @description('Minimum ThreatAssess Score: The least ThreatAssess score.')
  @minValue(0)
  @maxValue(1000)
  MINIMUM_THREATASSESS_SCORE: int?
  @description('Minimum Confidence Rating: The least confidence rating.')
  @minValue(0)
  @maxValue(100)
  MINIMUM_CONFIDENCE_RATING: int?
  @description('Minimum Threat Rating: The least threat rating. Takes a number from 0 to 5 with at most two decimals.')
  MINIMUM_THREAT_RATING: string?
  @description('False Positive Threshold: The most false positives that an indicator may have; 0 sends those without any.')
  @minValue(0)
  FALSE_POSITIVE_THRESHOLD: int?
  @description('Indicator Reserve Count: Of the 15,000 places at Microsoft Defender for Endpoint, those to leave free; above 15,000 nothing is sent there. Has no effect at Microsoft Sentinel.')
  @minValue(0)
  INDICATOR_RESERVE_COUNT: int?
  @description('When runs start. Day of month and day of week must both match; Sunday is 0. Takes an NCRONTAB schedule in UTC, such as `0 */15 * * * *`.')
  EXPORT_SCHEDULE: string?
  @description('Time between full runs while only modified indicators are sent; at most a third of the shortest expiration. Takes a duration such as `90s`, `15m`, `24h`, `1d` or `PT15M`.')
  FULL_RUN_EVERY: string?
  @description('`changed` sends what is new, changed or close to its expiry; `always` sends everything on each run, as the guide\'s app does.')
  RESEND: ('changed' | 'always')?
  @description('Take back what ThreatConnect no longer has.')
  WITHDRAW: ('on' | 'off')?
  @description('A run that would take back more than this share of what is at the target, and more than 20, asks for approval. Takes a whole number of percent from `0%` to `100%`.')
  WITHDRAW_LIMIT: string?
  @description('`product` uses the target\'s own interface. `graph` goes through Microsoft Graph\'s tiIndicator as the guide does, which Microsoft has announced to remove.')
  DELIVERY: ('product' | 'graph')?
  @description('Address of the ThreatConnect API: https://{instance}/api. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only). Required: yes.')
  THREATCONNECT_URL: string?
  @description('Indicators asked for in one request.')
  @minValue(1)
  @maxValue(10000)
  THREATCONNECT_PAGE_SIZE: int?
  @description('GUID of the Log Analytics workspace, not its name or resource id. Takes the GUID of a Log Analytics workspace. Required: if TARGET_PRODUCT=Microsoft Sentinel and DELIVERY=product.')
  SENTINEL_WORKSPACE_ID: string?
  @description('Source that Sentinel shows. Keep it: under another name everything is uploaded again and the old objects stay until they expire. Takes a name other than `Microsoft Sentinel`.')
  SENTINEL_SOURCE_SYSTEM: string?
  @description('Send User Agent indicators to Sentinel.')
  SENTINEL_USER_AGENTS: ('on' | 'off')?
  @description('Add the severity as a STIX extension.')
  SENTINEL_SEVERITY_EXTENSION: ('on' | 'off')?
  @description('Device groups of Microsoft Defender that the indicators apply to; all devices if blank.')
  DEFENDER_DEVICE_GROUPS: string[]?
  @description('Which hashes of a file Microsoft Defender gets: the longest, which it heeds first, or all.')
  DEFENDER_FILE_HASHES: ('longest' | 'all')?
  @description('What never goes out, whatever ThreatConnect says: own domains, own networks, public resolvers.')
  NEVER_SEND: string[]?
  @description('Send private and reserved addresses even with the action Block.')
  ALLOW_PRIVATE_ADDRESSES: ('on' | 'off')?
  @description('Name in the vault of MICROSOFT_GRAPH_CLIENT_SECRET. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
  MICROSOFT_GRAPH_CLIENT_SECRET_SECRET_NAME: string?
  @description('Name in the vault of THREATCONNECT_SECRET_KEY. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
  THREATCONNECT_SECRET_KEY_SECRET_NAME: string?
  @description('Name in the vault of THREATCONNECT_TOKEN. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
  THREATCONNECT_TOKEN_SECRET_NAME: string?
  @description('Address of Sentinel\'s upload API, in place of the cloud\'s. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
  SENTINEL_URL: string?
  @description('Scope of the tokens for Sentinel, in place of the cloud\'s. Takes a scope such as `https://management.azure.com/.default`.')
  SENTINEL_SCOPE: string?
  @description('Address of Defender\'s API, in place of the cloud\'s; regional ones (https://eu.api.security.microsoft.com) are nearer. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
  DEFENDER_URL: string?
  @description('Scope of the tokens for Defender, in place of the cloud\'s. Takes a scope such as `https://api.securitycenter.microsoft.com/.default`.')
  DEFENDER_SCOPE: string?
  @description('Address of Microsoft Graph, in place of the cloud\'s. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
  GRAPH_URL: string?
  @description('Scope of the tokens for Microsoft Graph, in place of the cloud\'s. Takes a scope such as `https://graph.microsoft.com/.default`.')
  GRAPH_SCOPE: string?
}
