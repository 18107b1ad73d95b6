// Everything at once, to look things up and to check: three jobs, a closed network, three zones, every setting.
using 'main.bicep'

param environmentName = 'full'
param location = 'westeurope'
param tags = { owner: 'security-operations' }
param functionAppName = 'func-indicator-relay-full'
param storageAccountName = 'stindicatorrelayfull'
param keyVaultName = 'kv-indicator-relay-full'
param alertEmails = ['security-operations@example.com', 'on-call@example.com']
param logRetentionInDays = 90
param alwaysReadyHttpInstances = 2
param maximumInstanceCount = 100
param instanceMemoryMB = 512
param zoneRedundant = true
param privateNetwork = true
param networkAddressPrefix = '10.20.30.0/24'
param sentinelWorkspaceResourceIds = [
  '/subscriptions/00000000-0000-0000-0000-000000000003/resourceGroups/rg-sentinel/providers/Microsoft.OperationalInsights/workspaces/log-sentinel'
]
// The service principal of the app registration, since IDENTITY is `secret`.
param sentinelPrincipalId = '22222222-2222-2222-2222-222222222222'

param apiUser = '12345678901234567890'
param microsoftGraphClientId = '33333333-3333-3333-3333-333333333333'
param microsoftGraphTenantId = '00000000-0000-0000-0000-000000000002'
param defaultTlpLevel = 'Amber'
param targetProduct = 'Microsoft Sentinel'
param actionToTake = 'Alert'
param expirationDaysEmail = 30
param expirationDaysFile = 90
param expirationDaysNetwork = 30
param owners = ['Example Organization', 'Common Community']
param indicatorTypes = ['Address', 'Host', 'URL', 'SHA256']
param lastRun = '30 days ago'
param onlySendIndicatorsModifiedSinceLastRun = 'on'
param tagsFilter = ['APT', 'Ransomware']
param minimumThreatassessScore = 500
param minimumConfidenceRating = 50
param minimumThreatRating = '2.5'
param falsePositiveThreshold = 0
param loggingLevel = 'info'

param exportSchedule = '0 */30 * * * *'
param fullRunEvery = '24h'
param resend = 'changed'
param withdraw = 'on'
param withdrawLimit = '20%'
param threatconnectUrl = 'https://example.threatconnect.com/api'
param threatconnectPageSize = 1000
param neverSend = ['example.com', '203.0.113.0/24']
param allowPrivateAddresses = 'off'
param identity = 'secret'
param cloud = 'global'
param loginUrl = 'https://login.microsoftonline.com'
param otelExporterOtlpEndpoint = 'https://collector.contoso.com'
param timeBudget = '20m'
param publicUrl = 'https://notifications.contoso.com'
param encryptionCertificates = ['notifications-2026']
param tokenAudiences = ['33333333-3333-3333-3333-333333333333']
param tokenTenants = ['00000000-0000-0000-0000-000000000002']

param jobs = [
  {
    name: 'sentinel'
    settings: {
      SENTINEL_WORKSPACE_ID: '11111111-1111-1111-1111-111111111111'
      SENTINEL_SOURCE_SYSTEM: 'Indicator Relay'
      SENTINEL_USER_AGENTS: 'on'
      SENTINEL_SEVERITY_EXTENSION: 'on'
      SENTINEL_URL: 'https://sentinelus.azure-api.net'
      SENTINEL_SCOPE: 'https://management.azure.com/.default'
    }
  }
  {
    name: 'defender'
    settings: {
      TARGET_PRODUCT: 'Microsoft Defender for Endpoint'
      ACTION_TO_TAKE: 'Block'
      EXPIRATION_DAYS_FILE: 60
      INDICATOR_TYPES: ['Address', 'Host', 'SHA256']
      INDICATOR_RESERVE_COUNT: 3000
      DEFENDER_DEVICE_GROUPS: ['Servers']
      DEFENDER_FILE_HASHES: 'longest'
      DEFENDER_URL: 'https://eu.api.security.microsoft.com'
      DEFENDER_SCOPE: 'https://api.securitycenter.microsoft.com/.default'
    }
  }
  {
    name: 'legacy-graph'
    settings: {
      DELIVERY: 'graph'
      TQL: 'typeName in ("Address") and rating > 3'
      GRAPH_URL: 'https://graph.microsoft.com'
      GRAPH_SCOPE: 'https://graph.microsoft.com/.default'
    }
  }
]
