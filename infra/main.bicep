// Indicator Relay in one resource group: the app, its storage, its vault, what watches it, and the roles between them.
// Parameters first: where and what, then the product's settings in the guide's order.
targetScope = 'resourceGroup'

import { Job } from 'modules/job.bicep'

@description('Tells apart several installations in one resource group; `azd` gives the name of its environment.')
@minLength(1)
param environmentName string = 'production'

@description('Region. Flex Consumption is not offered in all: az functionapp list-flexconsumption-locations.')
param location string = resourceGroup().location

@description('Tags for every resource.')
param tags object = {}

@description('Name of the function app, unique in Azure.')
@maxLength(60)
param functionAppName string = 'func-${uniqueString(resourceGroup().id, environmentName)}'

@description('Name of the storage account, unique in Azure.')
@minLength(3)
@maxLength(24)
param storageAccountName string = 'st${uniqueString(resourceGroup().id, environmentName)}'

@description('Name of the vault, unique in Azure, for 90 days after its deletion too.')
@minLength(3)
@maxLength(24)
param keyVaultName string = 'kv-${uniqueString(resourceGroup().id, environmentName)}'

@description('Who gets an e-mail when something fails.')
param alertEmails string[] = []

@description('Days that logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionInDays int = 30

@description('Instances that are always there for HTTP functions. One takes away the cold start; none costs nothing while idle.')
@minValue(0)
param alwaysReadyHttpInstances int = 1

@description('Most instances at a time.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Memory of an instance in MB.')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 2048

@description('Keep plan and storage in three zones of the region; `alwaysReadyHttpInstances` is then 2 where it is 1.')
param zoneRedundant bool = false

@description('Reach storage and vault through private endpoints in a virtual network only.')
param privateNetwork bool = false

@description('Addresses of that network, at most a /26.')
param networkAddressPrefix string = '10.80.0.0/24'

@description('Resource ids of Log Analytics workspaces of Microsoft Sentinel on which to give *Microsoft Sentinel Contributor*.')
param sentinelWorkspaceResourceIds string[] = []

@description('Object id of the service principal that gets that role; the app\'s own identity if blank.')
param sentinelPrincipalId string = ''

@description('Several sets of the settings below, in order of preference. Each takes its own, else those for all jobs. None: one job.')
param jobs Job[] = []

// <settings> Written by `cargo xtask infra --update` from the product's table, in its order.

@description('Api User: ThreatConnect access id; signs with THREATCONNECT_SECRET_KEY. Takes the access id of a ThreatConnect API user. Required: if THREATCONNECT_TOKEN is not given.')
param apiUser string = ''

@description('Microsoft Graph Client ID: Client id of the app registered in Microsoft Entra. Takes the client id of an app registration. Required: if IDENTITY=secret.')
param microsoftGraphClientId string = ''

@description('Microsoft Graph Tenant ID: Id of the Microsoft Entra tenant. Takes the id of a tenant, or one of its domain names. Required: yes.')
param microsoftGraphTenantId string = tenant().tenantId

@description('Default TLP Level: TLP of indicators without a TLP label. Clear is White. Required: yes.')
@allowed(['White', 'Clear', 'Green', 'Amber', 'Red'])
param defaultTlpLevel string

@description('Target Product: Where indicators go. Required: yes.')
@allowed(['Microsoft Sentinel', 'Microsoft Defender for Endpoint'])
param targetProduct string

@description('Action to Take: What the target does when it sees an indicator. Required: yes.')
@allowed(['Alert', 'Block'])
param actionToTake string

@description('Expiration Days - Email: Days until an email indicator expires at the target, unless it is sent again. Required: yes.')
@minValue(1)
@maxValue(3650)
param expirationDaysEmail int

@description('Expiration Days - File: The same for file indicators. Required: yes.')
@minValue(1)
@maxValue(3650)
param expirationDaysFile int

@description('Expiration Days - Network: The same for network indicators. Required: yes.')
@minValue(1)
@maxValue(3650)
param expirationDaysNetwork int

@description('Owners: Owners whose indicators are sent; all that the API user sees if blank. A name that does not exist is an error of the run.')
param owners string[] = []

@description('Indicator Types: Types of indicators that are sent; all ten if blank.')
param indicatorTypes (
  | 'Address'
  | 'CIDR'
  | 'Email Address'
  | 'Email Subject'
  | 'MD5'
  | 'SHA1'
  | 'SHA256'
  | 'Host'
  | 'URL'
  | 'User Agent')[] = []

@description('Last Run: How far back the first run reads. Ignored unless only modified indicators are sent. Takes `30 days ago`, a date `2023-11-21`, or a date and time `2023-11-21T10:11:12Z`. Required: if ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN=on.')
param lastRun string = ''

@description('Only Send Indicators Modified Since Last Run: On: runs read what was modified, with a full run every FULL_RUN_EVERY. Off: every run reads everything.')
@allowed(['on', 'off'])
param onlySendIndicatorsModifiedSinceLastRun string = 'off'

@description('TQL: Custom query. Replaces Owners, Indicator Types, Tags Filter, the three minimums and False Positive Threshold. Takes a query in TQL.')
param tql string = ''

@description('Tags Filter: An indicator must have at least one of these tags.')
param tagsFilter string[] = []

@description('Minimum ThreatAssess Score: The least ThreatAssess score.')
@minValue(0)
@maxValue(1000)
param minimumThreatassessScore int?

@description('Minimum Confidence Rating: The least confidence rating.')
@minValue(0)
@maxValue(100)
param minimumConfidenceRating int?

@description('Minimum Threat Rating: The least threat rating. Takes a number from 0 to 5 with at most two decimals.')
param minimumThreatRating string = ''

@description('False Positive Threshold: The most false positives that an indicator may have; 0 sends those without any.')
@minValue(0)
param falsePositiveThreshold int?

@description('Logging Level: How much is logged.')
@allowed(['trace', 'debug', 'info', 'warn', 'error'])
param loggingLevel string = 'info'

@description('Indicator Reserve Count: Of the 15,000 places at Microsoft Defender for Endpoint, those to leave free; above 15,000 nothing is sent there. Has no effect at Microsoft Sentinel.')
@minValue(0)
param indicatorReserveCount int?

@description('When runs start. Day of month and day of week must both match; Sunday is 0. Takes an NCRONTAB schedule in UTC, such as `0 */15 * * * *`.')
param exportSchedule string = '0 */15 * * * *'

@description('Time between full runs while only modified indicators are sent; at most a third of the shortest expiration. Takes a duration such as `90s`, `15m`, `24h`, `1d` or `PT15M`.')
param fullRunEvery string = '24h'

@description('`changed` sends what is new, changed or close to its expiry; `always` sends everything on each run, as the guide\'s app does.')
@allowed(['changed', 'always'])
param resend string = 'changed'

@description('Take back what ThreatConnect no longer has.')
@allowed(['on', 'off'])
param withdraw string = 'on'

@description('A run that would take back more than this share of what is at the target, and more than 20, asks for approval. Takes a whole number of percent from `0%` to `100%`.')
param withdrawLimit string = '20%'

@description('`product` uses the target\'s own interface. `graph` goes through Microsoft Graph\'s tiIndicator as the guide does, which Microsoft has announced to remove.')
@allowed(['product', 'graph'])
param delivery string = 'product'

@description('Address of the ThreatConnect API: https://{instance}/api. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only). Required: yes.')
param threatconnectUrl string

@description('Indicators asked for in one request.')
@minValue(1)
@maxValue(10000)
param threatconnectPageSize int = 1000

@description('GUID of the Log Analytics workspace, not its name or resource id. Takes the GUID of a Log Analytics workspace. Required: if TARGET_PRODUCT=Microsoft Sentinel and DELIVERY=product.')
param sentinelWorkspaceId string = ''

@description('Source that Sentinel shows. Keep it: under another name everything is uploaded again and the old objects stay until they expire. Takes a name other than `Microsoft Sentinel`.')
param sentinelSourceSystem string = 'Indicator Relay'

@description('Send User Agent indicators to Sentinel.')
@allowed(['on', 'off'])
param sentinelUserAgents string = 'off'

@description('Add the severity as a STIX extension.')
@allowed(['on', 'off'])
param sentinelSeverityExtension string = 'off'

@description('Device groups of Microsoft Defender that the indicators apply to; all devices if blank.')
param defenderDeviceGroups string[] = []

@description('Which hashes of a file Microsoft Defender gets: the longest, which it heeds first, or all.')
@allowed(['longest', 'all'])
param defenderFileHashes string = 'longest'

@description('What never goes out, whatever ThreatConnect says: own domains, own networks, public resolvers.')
param neverSend string[] = []

@description('Send private and reserved addresses even with the action Block.')
@allowed(['on', 'off'])
param allowPrivateAddresses string = 'off'

@description('How to sign in to Microsoft: with the client secret, or with a managed identity.')
@allowed(['secret', 'managed'])
param identity string = 'secret'

@description('Name in the vault of MICROSOFT_GRAPH_CLIENT_SECRET. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
#disable-next-line secure-secrets-in-params
param microsoftGraphClientSecretSecretName string = 'microsoft-graph-client-secret'

@description('Name in the vault of THREATCONNECT_SECRET_KEY. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
#disable-next-line secure-secrets-in-params
param threatconnectSecretKeySecretName string = 'threatconnect-secret-key'

@description('Name in the vault of THREATCONNECT_TOKEN. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
#disable-next-line secure-secrets-in-params
param threatconnectTokenSecretName string = 'threatconnect-token'

@description('Name in the vault of CLIENT_STATE_KEY. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
#disable-next-line secure-secrets-in-params
param clientStateKeySecretName string = 'client-state-key'

@description('Name in the vault of CLIENT_STATE_KEY_PREVIOUS; there need be none. Takes the name of a secret in the vault: letters, digits and `-`, at most 127.')
#disable-next-line secure-secrets-in-params
param clientStateKeyPreviousSecretName string = 'client-state-key-previous'

@description('Microsoft\'s cloud; sets the addresses and the scope below. GCC is in the global cloud.')
@allowed(['global', 'usgov', 'usgov-dod', 'china'])
param cloud string = 'global'

@description('Address to sign in at, in place of the cloud\'s. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
param loginUrl string = ''

@description('Address of Sentinel\'s upload API, in place of the cloud\'s. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
param sentinelUrl string = ''

@description('Scope of the tokens for Sentinel, in place of the cloud\'s. Takes a scope such as `https://management.azure.com/.default`.')
param sentinelScope string = ''

@description('Address of Defender\'s API, in place of the cloud\'s; regional ones (https://eu.api.security.microsoft.com) are nearer. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
param defenderUrl string = ''

@description('Scope of the tokens for Defender, in place of the cloud\'s. Takes a scope such as `https://api.securitycenter.microsoft.com/.default`.')
param defenderScope string = ''

@description('Address of Microsoft Graph, in place of the cloud\'s. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
param graphUrl string = ''

@description('Scope of the tokens for Microsoft Graph, in place of the cloud\'s. Takes a scope such as `https://graph.microsoft.com/.default`.')
param graphScope string = ''

@description('The playbooks: what to do about notifications. Takes a path, or `{container}/{blob}` of the storage account.')
param playbooksFile string = 'playbooks/playbooks.toml'

@description('Address of this app that Microsoft Graph calls, without `/api/notifications`. Nothing is subscribed to without it. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
param publicUrl string = ''

@description('Certificates for notifications that bring the changed object along, newest first.')
param encryptionCertificates string[] = []

@description('Apps that the tokens of encrypted notifications must be for; if blank, MICROSOFT_GRAPH_CLIENT_ID and MANAGED_IDENTITY_CLIENT_ID. With a system-assigned identity, give its application (client) id.')
param tokenAudiences string[] = []

@description('Tenants whose encrypted notifications are taken; MICROSOFT_GRAPH_TENANT_ID if blank. If that is a domain name, give the id of the tenant, here or there: tokens name no other.')
param tokenTenants string[] = []

@description('When subscriptions are compared with what the playbooks want, and renewed. Takes an NCRONTAB schedule in UTC, such as `0 */15 * * * *`.')
param subscriptionSchedule string = '0 */5 * * * *'

@description('When alerts and incidents are polled, which nobody can subscribe to. Takes an NCRONTAB schedule in UTC, such as `0 */15 * * * *`.')
param alertPollSchedule string = '0 */5 * * * *'

@description('OpenTelemetry collector that gets spans and metrics (OTLP over HTTP). The other standard OTEL variables hold too. Takes an `https://` address without user name, query and fragment (`http://` for loopback addresses only).')
param otelExporterOtlpEndpoint string = ''

@description('Time that one invocation may take before it hands over to the next. Takes a duration such as `90s`, `15m`, `24h`, `1d` or `PT15M`.')
param timeBudget string = ''

var settings = {
  API_USER: apiUser
  MICROSOFT_GRAPH_CLIENT_ID: microsoftGraphClientId
  MICROSOFT_GRAPH_TENANT_ID: microsoftGraphTenantId
  DEFAULT_TLP_LEVEL: defaultTlpLevel
  TARGET_PRODUCT: targetProduct
  ACTION_TO_TAKE: actionToTake
  EXPIRATION_DAYS_EMAIL: expirationDaysEmail
  EXPIRATION_DAYS_FILE: expirationDaysFile
  EXPIRATION_DAYS_NETWORK: expirationDaysNetwork
  OWNERS: owners
  INDICATOR_TYPES: indicatorTypes
  LAST_RUN: lastRun
  ONLY_SEND_INDICATORS_MODIFIED_SINCE_LAST_RUN: onlySendIndicatorsModifiedSinceLastRun
  TQL: tql
  TAGS_FILTER: tagsFilter
  MINIMUM_THREATASSESS_SCORE: minimumThreatassessScore
  MINIMUM_CONFIDENCE_RATING: minimumConfidenceRating
  MINIMUM_THREAT_RATING: minimumThreatRating
  FALSE_POSITIVE_THRESHOLD: falsePositiveThreshold
  LOGGING_LEVEL: loggingLevel
  INDICATOR_RESERVE_COUNT: indicatorReserveCount
  EXPORT_SCHEDULE: exportSchedule
  FULL_RUN_EVERY: fullRunEvery
  RESEND: resend
  WITHDRAW: withdraw
  WITHDRAW_LIMIT: withdrawLimit
  DELIVERY: delivery
  THREATCONNECT_URL: threatconnectUrl
  THREATCONNECT_PAGE_SIZE: threatconnectPageSize
  SENTINEL_WORKSPACE_ID: sentinelWorkspaceId
  SENTINEL_SOURCE_SYSTEM: sentinelSourceSystem
  SENTINEL_USER_AGENTS: sentinelUserAgents
  SENTINEL_SEVERITY_EXTENSION: sentinelSeverityExtension
  DEFENDER_DEVICE_GROUPS: defenderDeviceGroups
  DEFENDER_FILE_HASHES: defenderFileHashes
  NEVER_SEND: neverSend
  ALLOW_PRIVATE_ADDRESSES: allowPrivateAddresses
  IDENTITY: identity
  MICROSOFT_GRAPH_CLIENT_SECRET_SECRET_NAME: microsoftGraphClientSecretSecretName
  THREATCONNECT_SECRET_KEY_SECRET_NAME: threatconnectSecretKeySecretName
  THREATCONNECT_TOKEN_SECRET_NAME: threatconnectTokenSecretName
  CLIENT_STATE_KEY_SECRET_NAME: clientStateKeySecretName
  CLIENT_STATE_KEY_PREVIOUS_SECRET_NAME: clientStateKeyPreviousSecretName
  CLOUD: cloud
  LOGIN_URL: loginUrl
  SENTINEL_URL: sentinelUrl
  SENTINEL_SCOPE: sentinelScope
  DEFENDER_URL: defenderUrl
  DEFENDER_SCOPE: defenderScope
  GRAPH_URL: graphUrl
  GRAPH_SCOPE: graphScope
  PLAYBOOKS_FILE: playbooksFile
  PUBLIC_URL: publicUrl
  ENCRYPTION_CERTIFICATES: encryptionCertificates
  TOKEN_AUDIENCES: tokenAudiences
  TOKEN_TENANTS: tokenTenants
  SUBSCRIPTION_SCHEDULE: subscriptionSchedule
  ALERT_POLL_SCHEDULE: alertPollSchedule
  OTEL_EXPORTER_OTLP_ENDPOINT: otelExporterOtlpEndpoint
  TIME_BUDGET: timeBudget
}
// </settings>

var token = uniqueString(resourceGroup().id, environmentName)
var workspaceName = 'log-${token}'
var insightsName = 'appi-${token}'
var networkName = 'vnet-${token}'
var allTags = { 'azd-env-name': environmentName, ...tags }

resource appIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-${token}'
  location: location
  tags: allTags
}

module storage 'modules/storage.bicep' = {
  params: {
    name: storageAccountName
    location: location
    tags: allTags
    zoneRedundant: zoneRedundant
    isPrivate: privateNetwork
    principalId: appIdentity.properties.principalId
  }
}

module vault 'modules/vault.bicep' = {
  params: {
    name: keyVaultName
    location: location
    tags: allTags
    isPrivate: privateNetwork
    principalId: appIdentity.properties.principalId
  }
}

module monitoring 'modules/monitoring.bicep' = {
  params: {
    workspaceName: workspaceName
    insightsName: insightsName
    location: location
    tags: allTags
    retentionInDays: logRetentionInDays
    principalId: appIdentity.properties.principalId
  }
}

module network 'modules/network.bicep' = if (privateNetwork) {
  params: {
    name: networkName
    location: location
    tags: allTags
    addressPrefix: networkAddressPrefix
    storageAccountName: storageAccountName
    keyVaultName: keyVaultName
  }
  dependsOn: [storage, vault]
}

module app 'modules/function-app.bicep' = {
  params: {
    planName: 'plan-${token}'
    appName: functionAppName
    location: location
    tags: allTags
    serviceName: 'indicator-relay'
    identityName: appIdentity.name
    storageAccountName: storageAccountName
    keyVaultName: keyVaultName
    insightsName: insightsName
    subnetId: privateNetwork ? resourceId('Microsoft.Network/virtualNetworks/subnets', networkName, 'app') : null
    zoneRedundant: zoneRedundant
    maximumInstanceCount: maximumInstanceCount
    instanceMemoryMB: instanceMemoryMB
    alwaysReadyHttpInstances: zoneRedundant && alwaysReadyHttpInstances == 1 ? 2 : alwaysReadyHttpInstances
    settings: settings
    jobs: jobs
  }
  // The app starts when it may read its storage and its vault, and can reach them.
  dependsOn: [storage, vault, monitoring, network]
}

module alerts 'modules/alerts.bicep' = {
  params: {
    location: location
    tags: allTags
    workspaceName: workspaceName
    token: token
    alertEmails: alertEmails
  }
  dependsOn: [monitoring]
}

module workbook 'modules/workbook.bicep' = {
  params: { location: location, tags: allTags, workspaceName: workspaceName }
  dependsOn: [monitoring]
}

module sentinelRoles 'modules/sentinel-role.bicep' = [
  for id in sentinelWorkspaceResourceIds: {
    scope: resourceGroup(split(id, '/')[2], split(id, '/')[4])
    params: {
      workspaceName: last(split(id, '/'))
      principalId: empty(sentinelPrincipalId) ? appIdentity.properties.principalId : sentinelPrincipalId
    }
  }
]

output functionAppName string = app.outputs.name
output functionAppHostName string = app.outputs.hostName
output storageAccountName string = storageAccountName
output keyVaultName string = keyVaultName
output identityClientId string = appIdentity.properties.clientId

@description('For app-registration.bicep, when IDENTITY is `managed`.')
output identityPrincipalId string = appIdentity.properties.principalId
